#!/usr/bin/env bash
# A CUDA toolchain in DIR, from PyPI's packages (about 690 MB), for machines without one: nvcc, the headers and the
# libraries that `lathe-cuda-worker` is linked with. No GPU and no driver is needed to build.
#
#   eval "$(scripts/cuda-toolchain.sh DIR)"        then: make build CUDA=1
#
# Prints the environment that a build needs; what it does goes to stderr. A second call only prints.
set -euo pipefail

dir=${1:?"usage: eval \"\$(scripts/cuda-toolchain.sh DIR)\""}
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
root=$dir/nvidia/cu13

# cudarc knows CUDA up to 13.4. An older toolkit is content with an older driver, so the first of 13 it is.
packages=(
  nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-cuda-runtime==13.0.96
  'nvidia-cuda-cccl==13.0.*' 'nvidia-cuda-nvrtc==13.0.*' 'nvidia-cublas==13.0.*' 'nvidia-curand==10.4.*'
)

if [ ! -e "$dir/complete" ]; then
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$dir/wheels" "${packages[@]}" >&2
  for wheel in "$dir"/wheels/*.whl; do python3 -m zipfile -e "$wheel" "$dir"; done
  chmod -R +x "$root/bin" "$root/nvvm/bin"
  ln -sfn lib "$root/lib64"

  # Wheels hold libNAME.so.VERSION only; linkers look for libNAME.so.
  for library in "$root"/lib/lib*.so.*; do
    name=$(basename "$library")
    ln -sf "$name" "$root/lib/${name%%.so.*}.so"
  done

  # libcuda comes with the driver. To link against, one with every function that cuda.h declares (and those of
  # cudaProfiler.h, which is in none of the packages), each answering CUDA_ERROR_STUB_LIBRARY (34), like those that
  # NVIDIA's own toolkit has.
  mkdir -p "$root/lib/stubs"
  {
    echo '#include <cuda.h>' | gcc -E -P -I "$root/include" - | tr '\n' ' ' |
      grep -oE '\bCUresult[[:space:]]+cu[A-Za-z0-9_]+\(' | grep -oE 'cu[A-Za-z0-9_]+'
    printf '%s\n' cuProfilerInitialize cuProfilerStart cuProfilerStop
  } | sort -u | sed 's/.*/int &(void) { return 34; }/' > "$dir/libcuda.c"
  gcc -shared -fPIC -Wl,-soname,libcuda.so.1 -o "$root/lib/stubs/libcuda.so" "$dir/libcuda.c"
  ln -sf libcuda.so "$root/lib/stubs/libcuda.so.1"
  rm -rf "$dir/wheels"
  touch "$dir/complete"
fi

"$root/bin/nvcc" --version | tail -n 1 >&2
cat <<END
export CUDA_HOME='$root' CUDA_PATH='$root' CUDA_ROOT='$root' CUDA_TOOLKIT_ROOT_DIR='$root' NVCC='$root/bin/nvcc'
export PATH='$root/bin':"\$PATH" LIBRARY_PATH='$root/lib:$root/lib/stubs'\${LIBRARY_PATH:+:\$LIBRARY_PATH}
export CUDA_COMPUTE_CAP=\${CUDA_COMPUTE_CAP:-80} NVCC_APPEND_FLAGS=\${NVCC_APPEND_FLAGS:---compress-mode=size}
END
