//! node-redis and ioredis against the image; `make test-clients` installs them and runs this.

use tests::client;
use tests::machine::{Setup, Target};

#[test]
fn riscv64() {
    both_clients(Target::riscv64);
}

#[test]
fn aarch64() {
    both_clients(Target::aarch64);
}

fn both_clients(target: Target) {
    let machine = Setup::new(target).boot();
    for name in ["node_redis.mjs", "ioredis.mjs"] {
        let output = client::script(&client::node(), name, machine.port());
        assert!(output.trim_end().ends_with("all well"), "{output}");
    }
    machine.shutdown();
}
