//! Products of bf16 blocks in AMX tiles. The driver of a whole product cuts it into blocks of 32 x 32 results; this
//! module finds out whether AMX may be used, sets up the tiles of a thread, and computes one block.
//!
//! Arithmetic (TDPBF16PS, Intel SDM volume 2): in every step of 32 k, the products of bf16 values are accumulated in
//! float32, even and odd k apart, and the two sums are then added to the result; each operation rounds to nearest,
//! ties to even. Subnormal inputs count as zero and subnormal results become zero, whatever MXCSR says, and no
//! floating-point exception is raised. Equal blocks thus give equal bits on every thread.

#![allow(unsafe_code)]

use super::packed::Line;
use half::bf16;

/// Rows and columns of the result of one block.
pub const BLOCK: usize = 32;
/// Values of k in one step: the width of a row of a tile.
pub const STEP: usize = 32;

/// The result of a block: 32 x 32, row-major.
#[derive(Clone)]
#[repr(C, align(64))]
pub struct Scratch(pub [f32; BLOCK * BLOCK]);

impl Scratch {
    pub const fn zeros() -> Self {
        Self([0.0; BLOCK * BLOCK])
    }

    /// Two lines for each row.
    pub fn lines(&self) -> &[Line] {
        // SAFETY: a line is 16 floats, aligned to 64 bytes as this is.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), BLOCK * 2) }
    }
}

/// One term `a b` of a sum of products, over `steps * STEP` values of k.
///
/// - `a`: 32 rows of row-major bf16, `a_stride` bytes apart (any alignment). Rows that lie a multiple of 4096 bytes
///   apart share one set of the first-level cache; a stride a little off such a number is faster.
/// - `b`: a panel of 32 columns, one row of 128 bytes for each pair of k: `[k / 2][column][k % 2]`. It may have any
///   alignment, but one of 64 bytes is much faster.
///
/// Where k is no multiple of [`STEP`], the rest of `b` must be zeros, and `a` must there be readable and finite.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Segment {
    pub a: *const bf16,
    pub a_stride: usize,
    pub b: *const bf16,
    pub steps: usize,
}

/// Whether this process may use AMX bf16: the processor has it, the kernel saves its registers, and Linux has given
/// permission. Asked once for the process.
pub fn available() -> bool {
    hardware::available()
}

/// The tile registers, set up on this thread while the value lives. Values may be nested: a task may hold one while
/// the thread pool runs another task in its wait.
pub struct Tiles(hardware::Configuration);

impl Tiles {
    /// None without AMX. Not free: once for a task, not for every block.
    pub fn new() -> Option<Self> {
        hardware::Configuration::new().map(Self)
    }

    /// `c = Σ a b` over the segments, or `c += Σ a b` if `add`. The sum stays in registers over all the segments.
    ///
    /// # Safety
    /// For every segment whose `steps` is not 0, `steps * 64` bytes at each of the 32 rows of `a`, and
    /// `steps * 2048` bytes at `b`, must be readable and not be written by other threads meanwhile.
    pub unsafe fn block(&self, segments: &[Segment], c: &mut Scratch, add: bool) {
        // SAFETY: the caller's promise.
        unsafe { self.0.block(segments, c, add) }
    }
}

/// What [`Tiles::block`] computes, in plain code: so that packing and driver can be tested without AMX.
///
/// # Safety
/// As of [`Tiles::block`].
#[cfg(all(test, target_arch = "x86_64"))]
pub unsafe fn model(segments: &[Segment], c: &mut Scratch) {
    for (at, c) in c.0.iter_mut().enumerate() {
        let (row, column) = (at / BLOCK, at % BLOCK);
        *c = 0.0;
        for s in segments {
            for i in 0..s.steps * STEP {
                // SAFETY: the caller's promise.
                *c += unsafe {
                    let a = *s.a.byte_add(row * s.a_stride).add(i);
                    let b = *s.b.add(i / 2 * 2 * BLOCK + column * 2 + i % 2);
                    a.to_f32() * b.to_f32()
                };
            }
        }
    }
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod hardware {
    use super::{Scratch, Segment};
    use nix::libc;
    use std::{
        arch::{asm, x86_64::__cpuid_count},
        cell::Cell,
        marker::PhantomData,
        mem::offset_of,
        sync::OnceLock,
    };

    /// The memory operand of LDTILECFG.
    #[repr(C, align(64))]
    struct TileConfig {
        palette: u8,
        start_row: u8,
        reserved: [u8; 14],
        row_bytes: [u16; 16],
        rows: [u8; 16],
    }

    /// All eight tiles at their full size, 16 rows of 64 bytes.
    static FULL: TileConfig = TileConfig {
        palette: 1,
        start_row: 0,
        reserved: [0; 14],
        row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
        rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
    };

    thread_local! {
        /// How many configurations live on this thread; the last one releases the tiles.
        static LIVING: Cell<usize> = const { Cell::new(0) };
    }

    pub fn available() -> bool {
        static AVAILABLE: OnceLock<bool> = OnceLock::new();
        *AVAILABLE.get_or_init(|| processor_has_amx() && kernel_saves_tiles() && linux_permits())
    }

    /// CPUID: AMX-TILE and AMX-BF16 (leaf 7), and a palette 1 of eight tiles of 16 rows of 64 bytes (leaf 0x1d).
    fn processor_has_amx() -> bool {
        let leaf = |leaf, subleaf| __cpuid_count(leaf, subleaf);
        if leaf(0, 0).eax < 0x1d {
            return false;
        }
        let (features, palette) = (leaf(7, 0).edx, leaf(0x1d, 1));
        let (row_bytes, tiles, rows) = (palette.ebx & 0xffff, palette.ebx >> 16, palette.ecx & 0xffff);
        features & (1 << 22) != 0
            && features & (1 << 24) != 0
            && leaf(0x1d, 0).eax >= 1
            && (row_bytes, tiles, rows) == (64, 8, 16)
    }

    /// XCR0: the kernel saves the tile configuration (bit 17) and the tiles (bit 18) of a thread.
    fn kernel_saves_tiles() -> bool {
        if __cpuid_count(1, 0).ecx & (1 << 27) == 0 {
            return false; // no XGETBV
        }
        let low: u32;
        // SAFETY: OSXSAVE is set, so that XGETBV with ecx = 0 is allowed; it reads a register.
        unsafe { asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") _, options(nomem, nostack, preserves_flags)) };
        low >> 17 & 0b11 == 0b11
    }

    /// Linux (5.16 and later) hands out the 8 KB of tile state on request only: ARCH_REQ_XCOMP_PERM of XTILEDATA.
    /// The permission holds for all threads, those to come too. It is refused where a signal stack is too small for
    /// the state; those that Rust makes are not.
    fn linux_permits() -> bool {
        const ARCH_REQ_XCOMP_PERM: libc::c_int = 0x1023;
        const XTILEDATA: libc::c_ulong = 18;
        // SAFETY: the call takes two integers and touches no memory of ours; unknown to the kernel, it is an error.
        unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XTILEDATA) == 0 }
    }

    /// Tiles configured on this thread. The pointer keeps it there: neither Send nor Sync.
    pub struct Configuration(PhantomData<*const ()>);

    impl Configuration {
        pub fn new() -> Option<Self> {
            if !available() {
                return None;
            }
            LIVING.with(|living| {
                if living.get() == 0 {
                    // SAFETY: AMX is available and FULL is a valid configuration. The compiler keeps nothing in
                    // tile registers, so that it can't miss what the instruction clears.
                    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const FULL, options(nostack, preserves_flags)) };
                }
                living.set(living.get() + 1);
            });
            Some(Self(PhantomData))
        }

        /// # Safety
        /// As of [`super::Tiles::block`].
        pub unsafe fn block(&self, segments: &[Segment], c: &mut Scratch, add: bool) {
            // The compiler knows nothing of tiles: values in them may not outlive an `asm!`. So one `asm!` does the
            // whole block. Only the configuration lasts from one to the next, like the rounding mode would: on this
            // thread nothing but `new` and `drop` changes it, and Linux saves it with the thread's registers.
            //
            // tmm0-3 hold the result (upper left, upper right, lower left, lower right), tmm4, 5 the 16 upper and
            // the 16 lower rows of a, tmm6, 7 the 16 left and the 16 right columns of b. Four sums are enough to
            // hide the latency of a product (52 cycles, one starts every 16). No software prefetch: the panel is
            // contiguous, and the driver's blocking keeps both operands in the near caches.
            //
            // SAFETY: tiles are configured while self lives. c is 32 rows of 128 bytes, borrowed exclusively. Of the
            // segments the loop reads what the caller promises: 16 rows of 64 bytes, a_stride apart, twice, and
            // 32 half rows of b in every step.
            unsafe {
                asm!(
                    "test {add:e}, {add:e}",
                    "jz 2f",
                    "tileloadd tmm0, [{c} + {stride}*1]",
                    "tileloadd tmm1, [{c} + {stride}*1 + 64]",
                    "tileloadd tmm2, [{c} + {stride}*1 + 2048]",
                    "tileloadd tmm3, [{c} + {stride}*1 + 2112]",
                    "jmp 3f",
                    "2:",
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "tilezero tmm2",
                    "tilezero tmm3",
                    "3:", // the next segment
                    "cmp {segment}, {end}",
                    "je 6f",
                    "mov {upper}, [{segment} + {A}]",
                    "mov {a_stride}, [{segment} + {A_STRIDE}]",
                    "mov {b}, [{segment} + {B}]",
                    "mov {steps}, [{segment} + {STEPS}]",
                    "add {segment}, {SEGMENT}",
                    "mov {lower}, {a_stride}",
                    "shl {lower}, 4",
                    "add {lower}, {upper}",
                    "test {steps}, {steps}",
                    "jz 3b",
                    ".p2align 4",
                    "4:", // the next step
                    "tileloadd tmm6, [{b} + {stride}*1]",
                    "tileloadd tmm4, [{upper} + {a_stride}*1]",
                    "tileloadd tmm7, [{b} + {stride}*1 + 64]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tileloadd tmm5, [{lower} + {a_stride}*1]",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    "tdpbf16ps tmm3, tmm5, tmm7",
                    "add {upper}, 64",
                    "add {lower}, 64",
                    "add {b}, 2048",
                    "dec {steps}",
                    "jnz 4b",
                    "jmp 3b",
                    "6:",
                    "tilestored [{c} + {stride}*1], tmm0",
                    "tilestored [{c} + {stride}*1 + 64], tmm1",
                    "tilestored [{c} + {stride}*1 + 2048], tmm2",
                    "tilestored [{c} + {stride}*1 + 2112], tmm3",
                    add = in(reg) u32::from(add),
                    c = in(reg) c,
                    stride = in(reg) 128_usize,
                    segment = inout(reg) segments.as_ptr_range().start => _,
                    end = in(reg) segments.as_ptr_range().end,
                    upper = out(reg) _,
                    lower = out(reg) _,
                    a_stride = out(reg) _,
                    b = out(reg) _,
                    steps = out(reg) _,
                    A = const offset_of!(Segment, a),
                    A_STRIDE = const offset_of!(Segment, a_stride),
                    B = const offset_of!(Segment, b),
                    STEPS = const offset_of!(Segment, steps),
                    SEGMENT = const size_of::<Segment>(),
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }
    }

    impl Drop for Configuration {
        fn drop(&mut self) {
            LIVING.with(|living| {
                living.set(living.get() - 1);
                if living.get() == 0 {
                    // SAFETY: AMX is available. With the tiles free, a context switch need not save them.
                    unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) };
                }
            });
        }
    }
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
mod hardware {
    use super::{Scratch, Segment};

    pub fn available() -> bool {
        false
    }

    /// There is none.
    pub enum Configuration {}

    impl Configuration {
        pub fn new() -> Option<Self> {
            None
        }

        /// # Safety
        /// Can't be called.
        pub unsafe fn block(&self, _: &[Segment], _: &mut Scratch, _: bool) {
            match *self {}
        }
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Runs `test` where there is AMX; elsewhere prints that it does not (scripts/amx-in-bochs.sh has an emulator).
    fn with_tiles(test: impl FnOnce(&Tiles)) {
        match Tiles::new() {
            Some(tiles) => test(&tiles),
            None => println!("skipped: no AMX here"),
        }
    }

    /// A matrix for one term: a with `stride` bytes between rows, b as a panel, both of `k` values; a's memory
    /// between the rows and behind k is `outside`.
    struct Term {
        k: usize,
        stride: usize,
        a: Vec<u8>,
        b: Vec<bf16>,
    }

    impl Term {
        fn new(k: usize, stride: usize, outside: bf16, mut value: impl FnMut() -> f32) -> Self {
            let steps = k.div_ceil(STEP);
            // The first byte is not a's: no row needs to be aligned.
            let mut a = outside.to_bits().to_le_bytes().repeat((BLOCK - 1) * stride / 2 + steps * STEP + 1);
            a.truncate(1 + (BLOCK - 1) * stride + steps * STEP * 2);
            let mut b = vec![bf16::ZERO; steps * STEP * BLOCK];
            for row in 0..BLOCK {
                for i in 0..k {
                    let at = 1 + row * stride + i * 2;
                    a[at..at + 2].copy_from_slice(&bf16::from_f32(value()).to_bits().to_le_bytes());
                }
            }
            for i in 0..k {
                for column in 0..BLOCK {
                    b[i / 2 * 64 + column * 2 + i % 2] = bf16::from_f32(value());
                }
            }
            Self { k, stride, a, b }
        }

        fn segment(&self) -> Segment {
            let a = self.a[1..].as_ptr().cast();
            Segment { a, a_stride: self.stride, b: self.b.as_ptr(), steps: self.k.div_ceil(STEP) }
        }

        fn a(&self, row: usize, i: usize) -> f64 {
            let at = 1 + row * self.stride + i * 2;
            bf16::from_le_bytes([self.a[at], self.a[at + 1]]).to_f64()
        }

        fn b(&self, i: usize, column: usize) -> f64 {
            self.b[i / 2 * 64 + column * 2 + i % 2].to_f64()
        }
    }

    /// The block in float64, and for each value the sum of the absolute terms.
    fn reference(terms: &[Term], start: Option<&Scratch>) -> Vec<(f64, f64)> {
        (0..BLOCK * BLOCK)
            .map(|at| {
                let first = start.map_or(0.0, |c| f64::from(c.0[at]));
                let products =
                    terms.iter().flat_map(|t| (0..t.k).map(move |i| t.a(at / BLOCK, i) * t.b(i, at % BLOCK)));
                products.fold((first, first.abs()), |(sum, size), x| (sum + x, size + x.abs()))
            })
            .collect()
    }

    fn product(tiles: &Tiles, terms: &[Term], start: Option<&Scratch>) -> Scratch {
        let segments: Vec<Segment> = terms.iter().map(Term::segment).collect();
        let mut c = start.cloned().unwrap_or(Scratch([f32::NAN; BLOCK * BLOCK]));
        // SAFETY: a term's buffers reach exactly as far as its segment says.
        unsafe { tiles.block(&segments, &mut c, start.is_some()) };
        c
    }

    /// Numbers in -1..1, the same in every run.
    fn numbers(seed: u64) -> impl FnMut() -> f32 {
        let mut state = seed;
        move || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        }
    }

    /// Small integers, whose sums are exact in any order: every product must be in its place.
    fn integers(seed: u64) -> impl FnMut() -> f32 {
        let mut number = numbers(seed);
        move || (number() * 9.0).trunc()
    }

    #[test]
    fn tiles_come_with_amx_only() {
        assert_eq!(Tiles::new().is_some(), available());
        println!("AMX: {}", available());
    }

    #[test]
    fn integers_are_exact() {
        with_tiles(|tiles| {
            // (k, bytes between rows): aligned, odd, dense where k is no multiple of a step, and shared rows.
            for shape in [(32, 64), (64, 128), (576, 1152), (96, 211), (40, 80), (1, 2), (33, 67), (320, 0)] {
                let (k, stride) = shape;
                // Dense rows: the value read behind k is one of the next row.
                let terms = [Term::new(k, stride, bf16::from_f32(7.0), integers(k as u64))];
                for start in [None, Some(Scratch([3.0; BLOCK * BLOCK]))] {
                    let c = product(tiles, &terms, start.as_ref());
                    for (at, (expected, _)) in reference(&terms, start.as_ref()).into_iter().enumerate() {
                        assert_eq!(
                            f64::from(c.0[at]),
                            expected,
                            "{shape:?}, row {}, column {}",
                            at / BLOCK,
                            at % BLOCK
                        );
                    }
                }
            }
        });
    }

    #[test]
    fn segments_add_up() {
        with_tiles(|tiles| {
            let start = Scratch(std::array::from_fn(|i| i as f32 - 500.0));
            for shapes in
                [&[][..], &[(0, 64)], &[(64, 128), (32, 1000)], &[(0, 0), (40, 96), (0, 8), (8, 64), (96, 333)]]
            {
                let mut value = integers(1);
                let terms: Vec<Term> =
                    shapes.iter().map(|&(k, stride)| Term::new(k, stride, bf16::ONE, &mut value)).collect();
                for start in [None, Some(&start)] {
                    let c = product(tiles, &terms, start);
                    let expected: Vec<f64> = reference(&terms, start).into_iter().map(|(sum, _)| sum).collect();
                    assert_eq!(c.0.map(f64::from)[..], expected, "{shapes:?}");
                }
            }
        });
    }

    #[test]
    fn fractions_are_as_near_as_float32_sums() {
        with_tiles(|tiles| {
            let mut value = numbers(2);
            let terms = [Term::new(1536, 3072, bf16::ZERO, &mut value), Term::new(50, 107, bf16::ONE, &mut value)];
            let start = Scratch(std::array::from_fn(|_| value()));
            let c = product(tiles, &terms, Some(&start));
            for (at, (sum, size)) in reference(&terms, Some(&start)).into_iter().enumerate() {
                // A value passes at most 16 roundings inside a step and two for each of the 50 steps.
                let bound = 118.0 * f64::from(f32::EPSILON) / 2.0 * size;
                assert!((f64::from(c.0[at]) - sum).abs() <= bound, "{at}: {} {sum} {bound}", c.0[at]);
            }
            assert_eq!(product(tiles, &terms, Some(&start)).0, c.0, "the same bits again");
        });
    }

    #[test]
    fn rounding_is_to_nearest_even_and_subnormals_are_zero() {
        with_tiles(|tiles| {
            let smallest = f32::from_bits(0x0080_0000);
            for (start, a, b, expected) in [
                (16_777_216.0, 1.0, 1.0, 16_777_216.0),        // 2^24 + 1: a tie, to even
                (16_777_218.0, 1.0, 1.0, 16_777_220.0),        // 2^24 + 3: a tie, to even
                (16_777_216.0, 1.0, 1.0078125, 16_777_218.0),  // just above the tie
                (0.0, f32::from_bits(0x0001_0000), 1e30, 0.0), // a subnormal bf16 counts as zero
                (0.0, smallest, 0.5, 0.0),                     // a subnormal result becomes zero
                (f32::from_bits(1), 0.0, 0.0, 0.0),            // also what stood there
            ] {
                let mut first = Some(a);
                let mut term = Term::new(1, 64, bf16::ZERO, || first.take().unwrap_or(0.0));
                term.b[0] = bf16::from_f32(b);
                let mut c = Scratch::zeros();
                c.0[0] = start;
                let c = product(tiles, &[term], Some(&c));
                assert_eq!(c.0[0], expected, "{start} + {a} * {b}");
                assert!(c.0[1..].iter().all(|x| *x == 0.0));
            }
        });
    }

    #[test]
    fn tiles_nest_and_every_thread_has_its_own() {
        with_tiles(|outer| {
            let terms = [Term::new(64, 128, bf16::ZERO, integers(3))];
            let first = product(outer, &terms, None);
            drop(Tiles::new().unwrap());
            assert_eq!(product(outer, &terms, None).0, first.0, "an inner value must not end the outer one");
            // More threads than processors, so that the kernel must save and restore the registers.
            std::thread::scope(|scope| {
                for seed in 0..4 {
                    scope.spawn(move || {
                        let tiles = Tiles::new().unwrap();
                        let terms = [Term::new(3200, 6400, bf16::ZERO, integers(seed))];
                        let first = product(&tiles, &terms, None);
                        for _ in 0..20 {
                            std::thread::yield_now();
                            assert_eq!(product(&tiles, &terms, None).0, first.0);
                        }
                        let sums = reference(&terms, None);
                        assert!(sums.iter().zip(first.0).all(|((sum, _), c)| *sum == f64::from(c)));
                    });
                }
            });
            assert_eq!(product(outer, &terms, None).0, first.0);
        });
    }

    /// Operands that end where memory ends: nothing behind what the contract names is read.
    #[cfg(target_os = "linux")]
    #[test]
    fn nothing_outside_the_operands_is_read() {
        use nix::libc;
        with_tiles(|tiles| {
            let page = 4096;
            let guarded = |len: usize| {
                let inner = len.next_multiple_of(page);
                // SAFETY: a new private mapping; its two outer pages are made unreadable.
                unsafe {
                    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
                    let at = libc::mmap(std::ptr::null_mut(), inner + 2 * page, libc::PROT_NONE, flags, -1, 0);
                    assert_ne!(at, libc::MAP_FAILED);
                    let start = at.cast::<u8>().add(page);
                    assert_eq!(libc::mprotect(start.cast(), inner, libc::PROT_READ | libc::PROT_WRITE), 0);
                    (start, start.add(inner - len))
                }
            };
            let (steps, stride) = (2, 200);
            let (a, b) = (guarded((BLOCK - 1) * stride + steps * 64), guarded(steps * 2048));
            let mut c = Scratch([1.0; BLOCK * BLOCK]);
            for (a, b) in [(a.1, b.1), (a.0, b.0)] {
                let segment = Segment { a: a.cast(), a_stride: stride, b: b.cast(), steps };
                // SAFETY: the operands lie in pages that can be read, at their end or at their start.
                unsafe { tiles.block(&[segment], &mut c, false) };
                assert_eq!(c.0, [0.0; BLOCK * BLOCK]);
            }
        });
    }
}
