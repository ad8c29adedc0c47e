#![allow(clippy::unwrap_used, clippy::expect_used)]
use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split_whitespace())
}

#[test]
fn the_definition_holds_together() {
    Cli::command().debug_assert();
}

#[test]
fn global_options_stand_anywhere() {
    for line in ["fathom --dir /d --json status", "fathom status --json --dir /d"] {
        let cli = parse(line).unwrap();
        assert!(cli.json);
        assert_eq!(cli.dir, Some(PathBuf::from("/d")));
    }
}

#[test]
fn every_command_of_the_help_parses() {
    for line in [
        "fathom init --role vendor,mirror --zone z --device /mnt/d:1GiB --device /mnt/e:1GiB:0 --set vendor.hold_seconds=1",
        "fathom init --role user --no-phrase --network fathom:abc",
        "fathom init --role bootstrap --new-network friends --listen /ip4/127.0.0.1/udp/0/quic-v1",
        "fathom run --role mirror",
        "fathom join fathom:abc",
        "fathom invite --descriptor",
        "fathom put a --as b --copies 2 --explain",
        "fathom put a --erasure 4+2",
        "fathom put a --zone x --zone y --media ssd --min-bandwidth 50 --max-latency 20",
        "fathom get a -o b --release --json --progress",
        "fathom ls",
        "fathom ls a",
        "fathom rm a b",
        "fathom fat --digest --mirror 00",
        "fathom fat --zone a --zone b --operator c --vendor ab --min-free 1GiB --health old --sort free:desc --leases",
        "fathom fat --watch --json",
        "fathom fat --lease 7f4d --mirror 00",
        "fathom fat check --what mirror --what user",
        "fathom fat export --what vendor -o a.jsonl",
        "fathom path a",
        "fathom recover",
        "fathom device list",
        "fathom demo",
        "fathom demo here --keep",
        "fathom testnet up --mirrors 1 --vendors 2 --devices 3 --zones 1 --users 1 --quota 64MiB --dir /n",
        "fathom testnet status --dir /n",
        "fathom testnet kill vendor-1",
        "fathom testnet stop vendor-1",
        "fathom testnet cont vendor-1",
        "fathom testnet start vendor-1",
        "fathom testnet down --remove",
        "fathom completions bash",
    ] {
        assert!(parse(line).is_ok(), "{line}: {:?}", parse(line).err().map(|error| error.to_string()));
    }
}

#[test]
fn what_is_wrong_is_refused() {
    for line in [
        "fathom",
        "fathom frobnicate",
        "fathom init --role king",
        "fathom init --device nowhere",
        "fathom init --network a --new-network b",
        "fathom put",
        "fathom put a --copies 0",
        "fathom put a --copies 9",
        "fathom put a --erasure 4",
        "fathom put a --erasure 1+2",
        "fathom put a --erasure 4+2 --copies 3",
        "fathom rm",
        "fathom device",
        "fathom testnet kill",
    ] {
        assert!(parse(line).is_err(), "{line}");
    }
}

#[test]
fn every_exit_code_is_documented() {
    let help = Cli::command().render_long_help().to_string();
    for kind in [
        ErrorKind::Other,
        ErrorKind::Usage,
        ErrorKind::NotFound,
        ErrorKind::NoSpace,
        ErrorKind::Network,
        ErrorKind::Interrupted,
        ErrorKind::Integrity,
        ErrorKind::Permission,
    ] {
        assert!(help.contains(&format!("\n  {}  ", kind.exit_code())), "{kind:?}");
        assert_eq!(ErrorKind::from_exit_code(kind.exit_code()), kind);
    }
}
