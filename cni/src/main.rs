//! The plugin's program: see the library.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    weft_cni::main()
}
