//! The commented configuration file that `fathom init` puts down.

use std::fmt::Write as _;

use toml::Value;

use super::device::RESERVE_DEFAULT;
use super::keys::{KEYS, Key, SECTIONS, Slot};
use super::{Config, format_rate, format_size};

const PREAMBLE: &str = "\
# Configuration of a Fathom node. `fathom run` reads it when it starts.
#
# A line that begins with #key = shows a default; remove the # and change the value to override it.
# Sizes are bytes or texts such as \"10 GiB\"; times are whole seconds.
";

const SCHEDULE_EXAMPLE: &str = "\
# [[node.schedule]]
# days = \"mon-fri\"
# from = \"08:00\"
# to = \"18:00\"
# upload = \"2 Mbit/s\"
# download = \"none\"
";

const DEVICE_EXAMPLE: &str = "\
#[[vendor.device]]
#path = \"/mnt/disk1/fathom\"
#quota = \"500 GiB\"
";

/// `config` as a TOML file that explains every key. Values that differ from the default are set, the others are
/// shown as comments, so that a later version's better default takes effect. Reading the result gives `config`.
#[must_use]
pub fn render_commented(config: &Config) -> String {
    let mut out = PREAMBLE.to_owned();
    for (section, about) in SECTIONS {
        // Writing to a String cannot fail.
        let _ = write!(out, "\n# {about}\n[{section}]\n");
        for key in KEYS.iter().filter(|key| key.section == section) {
            render_key(&mut out, key, config);
        }
        if section == "node" {
            render_schedule(&mut out, config);
        }
        if section == "vendor" {
            render_devices(&mut out, config);
        }
    }
    out
}

fn render_key(out: &mut String, key: &Key, config: &Config) {
    let value = literal((key.slot)(&mut config.clone()));
    let default = literal((key.slot)(&mut Config::default()));
    out.push('\n');
    for line in key.meaning {
        let _ = writeln!(out, "# {line}");
    }
    if value == default && key.name != "roles" {
        let _ = writeln!(out, "#{} = {value}", key.name);
    } else {
        let _ = writeln!(out, "# Default: {default}\n{} = {value}", key.name);
    }
}

fn render_schedule(out: &mut String, config: &Config) {
    out.push_str(
        "\n# Other caps at some times of the week, by the local clock: one [[node.schedule]] section for each; the first whose\n\
         # time it is counts. What it leaves out is as at other times.\n",
    );
    if config.node.schedule.is_empty() {
        out.push_str(SCHEDULE_EXAMPLE);
    }
    for entry in &config.node.schedule {
        out.push_str("\n[[node.schedule]]\n");
        for (key, value) in entry.shown() {
            let _ = writeln!(out, "{key} = {}", Value::String(value));
        }
    }
}

fn render_devices(out: &mut String, config: &Config) {
    let _ = write!(
        out,
        "\n# The devices: one [[vendor.device]] section for each directory that may be filled.\n\
         # path: the directory, absolute. quota: never exceeded, temporary files included.\n\
         # reserve: what stays free on the disk for others, whatever the quota. Default: \"{}\"\n",
        format_size(RESERVE_DEFAULT)
    );
    if config.vendor.devices.is_empty() {
        out.push_str(DEVICE_EXAMPLE);
        let _ = writeln!(out, "#reserve = \"{}\"", format_size(RESERVE_DEFAULT));
    }
    for device in &config.vendor.devices {
        let path = Value::String(device.path.to_string_lossy().into_owned());
        let _ = writeln!(
            out,
            "\n[[vendor.device]]\npath = {path}\nquota = \"{}\"\nreserve = \"{}\"",
            format_size(device.quota),
            format_size(device.reserve)
        );
    }
}

/// The value as it is written in TOML.
fn literal(slot: Slot<'_>) -> String {
    let list = |items: Vec<String>| Value::Array(items.into_iter().map(Value::String).collect()).to_string();
    match slot {
        Slot::Text(text) => Value::String(text.clone()).to_string(),
        Slot::Texts(texts) => list(texts.clone()),
        Slot::Roles(roles) => list(roles.iter().map(|role| role.name().to_owned()).collect()),
        Slot::Code(code) => Value::String(code.map(|code| code.to_string()).unwrap_or_default()).to_string(),
        Slot::Rate(rate) => Value::String(rate.map(format_rate).unwrap_or_default()).to_string(),
        Slot::Flag(flag) => flag.to_string(),
        Slot::U8(number) => number.to_string(),
        Slot::U32(bytes) => format!("\"{}\"", format_size(u64::from(*bytes))),
        Slot::U64(number) => number.to_string(),
        Slot::Usize(number) => number.to_string(),
    }
}
