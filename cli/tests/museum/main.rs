//! Attacks on the processes of the studio, on the real `lathe`; each test is named after its row.
#![allow(clippy::unwrap_used)]

mod confined;
mod desk;
mod hostile;
