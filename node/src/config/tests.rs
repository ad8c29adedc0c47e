#![allow(clippy::unwrap_used, clippy::expect_used)]
use super::keys::{KEYS, Rule, SECTIONS};
use super::*;

fn refusal(text: &str) -> String {
    Config::parse(text).unwrap_err().to_string()
}

#[test]
fn an_empty_file_is_the_default() {
    assert_eq!(Config::parse("").unwrap(), Config::default());
    Config::default().check().unwrap();
}

#[test]
fn the_commented_default_reads_back_and_names_every_key() {
    let text = render_commented(&Config::default());
    assert_eq!(Config::parse(&text).unwrap(), Config::default());
    for key in KEYS {
        assert!(
            text.contains(&format!("\n{} = ", key.name)) || text.contains(&format!("\n#{} = ", key.name)),
            "{}",
            key.path()
        );
    }
    // With the comments taken from the settings it says the same: what it shows as a default is one.
    let uncommented: String =
        text.lines()
            .map(|line| match line.strip_prefix('#') {
                Some(setting)
                    if setting.starts_with(|c: char| c.is_ascii_lowercase()) && !setting.contains("/mnt/") =>
                {
                    if setting.starts_with("quota") || setting.starts_with("reserve") { "" } else { setting }
                }
                _ => line,
            })
            .flat_map(|line| [line, "\n"])
            .collect();
    assert_eq!(Config::parse(&uncommented).unwrap(), Config::default());
}

#[test]
fn a_changed_configuration_reads_back() {
    let mut config = Config::default();
    for (key, value) in [
        ("node.roles", "vendor, mirror"),
        ("node.listen", "/ip4/127.0.0.1/udp/0/quic-v1,/ip6/::/udp/4600/quic-v1"),
        ("node.external", "/dns4/home.example.org/udp/4600/quic-v1"),
        ("node.upload", "5 Mbit/s"),
        ("node.download", "600KiB/s"),
        ("node.background_percent", "40"),
        ("node.cap_local", "true"),
        ("node.schedule", "mon-fri 08:00-18:00 upload=2Mbit/s download=none"),
        ("node.schedule", "22:00-06:00 upload=none"),
        ("node.announce_own", "0"),
        ("vendor.zone", "attic \"north\""),
        ("vendor.operator", "Änne"),
        ("vendor.report_seconds", "1"),
        ("vendor.hold_seconds", "0"),
        ("vendor.overload_percent", "15"),
        ("vendor.relief_percent", "10"),
        ("vendor.bandwidth_mb_per_s", "7"),
        ("vendor.unsealed_percent", "60"),
        ("vendor.device", "/mnt/a:1GiB:0"),
        ("vendor.device", "/mnt/with:colon:500 MB"),
        ("lease.offer_seconds", "3"),
        ("lease.lock_seconds", "4"),
        ("lease.commit_seconds", "5"),
        ("lease.grace_seconds", "6"),
        ("mirror.poll_seconds", "1"),
        ("mirror.reconcile_seconds", "9"),
        ("user.copies", "8"),
        ("user.erasure", "10+4"),
        ("user.in_flight", "1"),
        ("user.part_bytes", "128 KiB"),
    ] {
        config.set(key, value).unwrap_or_else(|error| panic!("{key}: {error}"));
    }
    config.check().unwrap();
    assert_eq!(config.node.roles, [Role::Vendor, Role::Mirror]);
    assert_eq!(config.node.caps, Caps { upload: Some(625_000), download: Some(614_400) });
    assert_eq!(config.node.schedule[0].upload, Some(Some(250_000)));
    assert_eq!(config.vendor.devices[0].reserve, 0);
    assert_eq!(config.vendor.devices[1].path, Path::new("/mnt/with:colon"));
    assert_eq!(config.vendor.devices[1].quota, 500_000_000);
    assert_eq!(config.user.part_bytes, 128 * 1024);
    assert_eq!(Config::parse(&render_commented(&config)).unwrap(), config);
}

#[test]
fn every_number_is_checked_at_its_limits() {
    for key in KEYS {
        let (Rule::Number(min, max) | Rule::Size(min, max)) = key.rule else { continue };
        let try_value = |value: u64| Config::default().set(&key.path(), &value.to_string());
        assert!(try_value(min).is_ok(), "{} = {min}", key.path());
        assert!(try_value(max).is_ok(), "{} = {max}", key.path());
        assert!(try_value(max + 1).is_err(), "{} = {}", key.path(), max + 1);
        if let Some(below) = min.checked_sub(1) {
            assert!(try_value(below).is_err(), "{} = {below}", key.path());
        }
        assert!(Config::default().set(&key.path(), "many").is_err());
        assert!(Config::default().set(&key.path(), "-1").is_err());
    }
}

#[test]
fn unknown_keys_are_refused_with_a_suggestion() {
    assert!(refusal("[vendor]\nhold_second = 1").contains("did you mean `vendor.hold_seconds`?"));
    assert!(refusal("[vendors]\nzone = 'a'").contains("did you mean `vendor`?"));
    assert!(refusal("[[vendor.devices]]\npath = '/a'").contains("did you mean `vendor.device`?"));
    assert!(refusal("[[vendor.device]]\npath = '/a'\nquotas = 1").contains("did you mean `quota`?"));
    assert!(refusal("qqqqqq = 1").contains("fathom init"));
    assert!(Config::default().set("user.copy", "1").unwrap_err().to_string().contains("`user.copies`"));
}

#[test]
fn wrong_values_say_what_is_right() {
    for (text, told) in [
        ("[user]\ncopies = 9", "`user.copies`: 9 must be a whole number from 1 to 8"),
        ("[user]\ncopies = '3'", "must be a whole number"),
        ("[user]\nerasure = '1+2'", "`user.erasure`: \"1+2\" must be k+m such as \"4+2\""),
        ("[user]\nerasure = 4", "must be k+m"),
        ("[user]\npart_bytes = '1 KiB'", "must be a size from"),
        ("[node]\nroles = []", "one or more of user"),
        ("[node]\nroles = ['king']", "one or more of user"),
        ("[node]\nupload = '5'", "`node.upload`: \"5\" must be a rate from 80 kbit/s to 1000 Gbit/s"),
        ("[node]\nupload = 5", "such as \"5 Mbit/s\""),
        ("[node]\nbackground_percent = 91", "from 1 to 90"),
        ("[node]\ncap_local = 'yes'", "must be true or false"),
        ("[node]\nschedule = 'x'", "[[node.schedule]]"),
        ("[[node.schedule]]\nday = 'mon'\nupload = 'none'", "did you mean `days`?"),
        ("[[node.schedule]]\nfrom = '8'\nupload = 'none'", "node.schedule 1: from`: write a time as"),
        ("[[node.schedule]]\nfrom = '08:00'", "say what the cap is then"),
        ("[node]\nlisten = ['0.0.0.0:4600']", "QUIC addresses such as"),
        ("[node]\nlisten = ['/ip4/0.0.0.0/tcp/4600']", "QUIC addresses such as"),
        ("[node]\nlisten = ['/ip4/0.0.0.0/udp/99999/quic-v1']", "QUIC addresses such as"),
        ("[vendor]\nrelief_percent = 90", "must be below vendor.overload_percent"),
        ("[[vendor.device]]\npath = 'relative'\nquota = '1 GiB'", "must be absolute"),
        ("[[vendor.device]]\npath = '/a'", "say how much may be used"),
        ("[[vendor.device]]\nquota = '1 GiB'", "name the directory"),
        ("[[vendor.device]]\npath = '/a'\nquota = 1", "must be at least"),
        ("[vendor]\ndevice = 1", "[[vendor.device]]"),
        ("vendor = 1", "[vendor]"),
        ("= = =", "not valid TOML"),
    ] {
        let told_really = refusal(text);
        assert!(told_really.contains(told), "{text}: {told_really}");
    }
    let twice = "[[vendor.device]]\npath = '/a'\nquota = '1 GiB'\n".repeat(2);
    assert!(refusal(&twice).contains("named twice"));
    let label = format!("[vendor]\nzone = '{}'", "z".repeat(65));
    assert!(refusal(&label).contains("at most 64 bytes"));
    assert!(Config::parse(&label.replacen("zz", "z", 1)).is_ok());
    assert!(matches!(Config::parse(&" ".repeat(CONFIG_BYTES_MAX + 1)), Err(ConfigError::TooLong)));
    assert!(Config::parse(&" ".repeat(CONFIG_BYTES_MAX)).is_ok());
}

#[test]
fn a_missing_file_says_what_to_do() {
    let error = Config::load(Path::new("/nowhere/fathom.toml")).unwrap_err();
    assert!(error.to_string().contains("fathom init"), "{error}");
}

#[test]
fn every_key_has_its_section() {
    for key in KEYS {
        assert!(SECTIONS.iter().any(|(section, _)| *section == key.section), "{}", key.path());
        assert!(!key.meaning.is_empty());
    }
}
