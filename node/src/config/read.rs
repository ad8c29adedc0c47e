//! From text to a checked [`Config`].

use std::path::PathBuf;

use fathom_protocol::erasure::Code;
use fathom_protocol::limits::{ADDRESS_BYTES_MAX, ADDRESSES_MAX, DEVICES_MAX, LABEL_BYTES_MAX};
use toml::{Table, Value};

use super::device::RESERVE_DEFAULT;
use super::keys::{DEVICE_KEYS, DEVICE_SECTION, KEYS, Key, Rule, SCHEDULE_KEYS, SCHEDULE_SECTION, SECTIONS, Slot};
use super::{CONFIG_BYTES_MAX, Config, ConfigError, DeviceConfig, Role, ScheduleEntry, parse_size, schedule};

/// How alike a known key must be to be suggested (0 to 1, Jaro-Winkler).
const SUGGEST_FROM: f64 = 0.7;

pub(super) fn parse(text: &str) -> Result<Config, ConfigError> {
    if text.len() > CONFIG_BYTES_MAX {
        return Err(ConfigError::TooLong);
    }
    let file: Table = text.parse().map_err(|error: toml::de::Error| ConfigError::Syntax(error.to_string()))?;
    let mut config = Config::default();
    for (section, content) in file {
        if !SECTIONS.iter().any(|(known, _)| *known == section) {
            let known = SECTIONS.iter().map(|(known, _)| (*known).to_owned());
            return Err(unknown(section, known));
        }
        let Value::Table(entries) = content else {
            return Err(ConfigError::Value {
                key: section.clone(),
                problem: format!("write it as a section, [{section}]"),
            });
        };
        for (name, value) in entries {
            let path = format!("{section}.{name}");
            if path == DEVICE_SECTION {
                config.vendor.devices = devices(value)?;
                continue;
            }
            if path == SCHEDULE_SECTION {
                config.node.schedule = schedule_entries(value)?;
                continue;
            }
            let key = find(&path)?;
            put(&mut config, key, value)?;
        }
    }
    check(&config)?;
    Ok(config)
}

pub(super) fn set(config: &mut Config, path: &str, text: &str) -> Result<(), ConfigError> {
    if path == DEVICE_SECTION {
        let device = text.parse().map_err(|problem| ConfigError::Value { key: path.to_owned(), problem })?;
        config.vendor.devices.push(device);
        return Ok(());
    }
    if path == SCHEDULE_SECTION {
        let entry = text.parse().map_err(|problem| ConfigError::Value { key: path.to_owned(), problem })?;
        config.node.schedule.push(entry);
        return Ok(());
    }
    let key = find(path)?;
    let list = || {
        let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
        Value::Array(items.map(|item| Value::String(item.to_owned())).collect())
    };
    let value = match key.rule {
        // A number that does not read as one is passed on as text and refused below with what is expected.
        Rule::Number(..) => text.trim().parse().map_or_else(|_| Value::String(text.to_owned()), Value::Integer),
        Rule::Flag => text.trim().parse().map_or_else(|_| Value::String(text.to_owned()), Value::Boolean),
        Rule::Size(..) | Rule::Label | Rule::Code | Rule::Rate => Value::String(text.to_owned()),
        Rule::Addresses | Rule::Roles => list(),
    };
    put(config, key, value)
}

pub(super) fn check(config: &Config) -> Result<(), ConfigError> {
    let wrong = |key: &str, problem: String| Err(ConfigError::Value { key: key.to_owned(), problem });
    if config.vendor.relief_percent >= config.vendor.overload_percent {
        return wrong(
            "vendor.relief_percent",
            format!(
                "{} must be below vendor.overload_percent, which is {}",
                config.vendor.relief_percent, config.vendor.overload_percent
            ),
        );
    }
    if config.vendor.devices.len() > DEVICES_MAX {
        return wrong(DEVICE_SECTION, format!("at most {DEVICES_MAX} devices; add a second node for more"));
    }
    if config.node.schedule.len() > schedule::ENTRIES_MAX {
        return wrong(SCHEDULE_SECTION, format!("at most {} entries", schedule::ENTRIES_MAX));
    }
    for (index, device) in config.vendor.devices.iter().enumerate() {
        let rest = &config.vendor.devices[index + 1..];
        if rest.iter().any(|other| other.path == device.path) {
            let path = device.path.display();
            return wrong(DEVICE_SECTION, format!("{path} is named twice; its space would be counted twice"));
        }
    }
    Ok(())
}

fn find(path: &str) -> Result<&'static Key, ConfigError> {
    KEYS.iter().find(|key| key.path() == path).ok_or_else(|| {
        let known = KEYS.iter().map(Key::path).chain([DEVICE_SECTION.to_owned(), SCHEDULE_SECTION.to_owned()]);
        unknown(path.to_owned(), known)
    })
}

fn unknown(key: String, known: impl Iterator<Item = String>) -> ConfigError {
    let suggestion = known
        .map(|candidate| (strsim::jaro_winkler(&key, &candidate), candidate))
        .filter(|(likeness, _)| *likeness >= SUGGEST_FROM)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate);
    ConfigError::UnknownKey { key, suggestion }
}

/// Checks `value` against the key's rule and stores it.
fn put(config: &mut Config, key: &Key, value: Value) -> Result<(), ConfigError> {
    let shown = value.to_string();
    store((key.slot)(config), key.rule, value).ok_or_else(|| ConfigError::Value {
        key: key.path(),
        problem: format!("{} must be {}", shown.chars().take(120).collect::<String>(), key.rule.expectation()),
    })
}

/// `None` if the value is not what the rule allows.
fn store(slot: Slot<'_>, rule: Rule, value: Value) -> Option<()> {
    match slot {
        Slot::Text(slot) => *slot = label(value)?,
        Slot::Texts(slot) => *slot = addresses(value)?,
        Slot::Roles(slot) => *slot = roles(value)?,
        Slot::Code(slot) => *slot = code(&value)?,
        Slot::Rate(slot) => *slot = schedule::cap(value.as_str()?)?,
        Slot::Flag(slot) => *slot = value.as_bool()?,
        Slot::U8(slot) => *slot = number(rule, &value)?.try_into().ok()?,
        Slot::U32(slot) => *slot = number(rule, &value)?.try_into().ok()?,
        Slot::U64(slot) => *slot = number(rule, &value)?,
        Slot::Usize(slot) => *slot = number(rule, &value)?.try_into().ok()?,
    }
    Some(())
}

fn number(rule: Rule, value: &Value) -> Option<u64> {
    let (number, min, max) = match rule {
        Rule::Number(min, max) => (value.as_integer()?.try_into().ok()?, min, max),
        Rule::Size(min, max) => (size(value)?, min, max),
        Rule::Label | Rule::Addresses | Rule::Roles | Rule::Code | Rule::Rate | Rule::Flag => return None,
    };
    (min..=max).contains(&number).then_some(number)
}

fn size(value: &Value) -> Option<u64> {
    match value {
        Value::Integer(bytes) => u64::try_from(*bytes).ok(),
        Value::String(text) => parse_size(text).ok(),
        _ => None,
    }
}

fn code(value: &Value) -> Option<Option<Code>> {
    match value.as_str()?.trim() {
        "" => Some(None),
        text => text.parse().ok().map(Some),
    }
}

fn label(value: Value) -> Option<String> {
    match value {
        Value::String(text) if text.len() <= LABEL_BYTES_MAX && !text.chars().any(char::is_control) => Some(text),
        _ => None,
    }
}

fn addresses(value: Value) -> Option<Vec<String>> {
    let Value::Array(items) = value else {
        return None;
    };
    if items.len() > ADDRESSES_MAX {
        return None;
    }
    let address = |item| match item {
        Value::String(text) if is_quic_address(&text) => Some(text),
        _ => None,
    };
    items.into_iter().map(address).collect()
}

/// A textual check, to tell a typing error when the file is read; the network layer parses it in full.
fn is_quic_address(text: &str) -> bool {
    let mut parts = text.split('/');
    text.len() <= ADDRESS_BYTES_MAX
        && parts.next() == Some("")
        && matches!(parts.next(), Some("ip4" | "ip6" | "dns" | "dns4" | "dns6"))
        && parts.next().is_some_and(|host| !host.is_empty() && host.bytes().all(|b| b.is_ascii_graphic()))
        && parts.next() == Some("udp")
        && parts.next().is_some_and(|port| port.parse::<u16>().is_ok())
        && parts.next() == Some("quic-v1")
        && parts.next().is_none()
}

fn roles(value: Value) -> Option<Vec<Role>> {
    let Value::Array(items) = value else {
        return None;
    };
    let mut roles = Vec::new();
    for item in items {
        let name = item.as_str()?;
        let role = Role::ALL.into_iter().find(|role| role.name() == name)?;
        if !roles.contains(&role) {
            roles.push(role);
        }
    }
    (!roles.is_empty()).then_some(roles)
}

fn devices(value: Value) -> Result<Vec<DeviceConfig>, ConfigError> {
    let Value::Array(items) = value else {
        return Err(ConfigError::Value {
            key: DEVICE_SECTION.to_owned(),
            problem: "write each device as a section of its own, [[vendor.device]]".to_owned(),
        });
    };
    items.into_iter().enumerate().map(|(index, item)| device(index + 1, item)).collect()
}

fn schedule_entries(value: Value) -> Result<Vec<ScheduleEntry>, ConfigError> {
    let Value::Array(items) = value else {
        return Err(ConfigError::Value {
            key: SCHEDULE_SECTION.to_owned(),
            problem: "write each entry as a section of its own, [[node.schedule]]".to_owned(),
        });
    };
    items.into_iter().enumerate().map(|(index, item)| schedule_entry(index + 1, item)).collect()
}

/// The `position`-th entry of the schedule, counted from 1.
fn schedule_entry(position: usize, item: Value) -> Result<ScheduleEntry, ConfigError> {
    let at = |name: &str| format!("{SCHEDULE_SECTION} {position}: {name}");
    let wrong = |name: &str, problem: String| ConfigError::Value { key: at(name), problem };
    let Value::Table(entries) = item else {
        return Err(wrong("", "write it as a section, [[node.schedule]]".to_owned()));
    };
    let mut entry = ScheduleEntry::default();
    for (name, value) in entries {
        if !SCHEDULE_KEYS.contains(&name.as_str()) {
            return Err(unknown(name, SCHEDULE_KEYS.into_iter().map(str::to_owned)));
        }
        let text = value.as_str().ok_or_else(|| wrong(&name, "must be a text in quotes".to_owned()))?;
        entry.set(&name, text).map_err(|problem| wrong(&name, problem))?;
    }
    entry.check().map_err(|problem| wrong("", problem))?;
    Ok(entry)
}

/// The `position`-th device of the file, counted from 1.
fn device(position: usize, item: Value) -> Result<DeviceConfig, ConfigError> {
    let at = |name: &str| format!("{DEVICE_SECTION} {position}: {name}");
    let wrong = |name: &str, problem: &str| ConfigError::Value { key: at(name), problem: problem.to_owned() };
    let Value::Table(entries) = item else {
        return Err(wrong("", "write it as a section, [[vendor.device]]"));
    };
    if let Some(name) = entries.keys().find(|name| !DEVICE_KEYS.contains(&name.as_str())) {
        return Err(unknown(name.clone(), DEVICE_KEYS.into_iter().map(str::to_owned)));
    }
    let path = entries
        .get("path")
        .and_then(Value::as_str)
        .ok_or_else(|| wrong("path", "name the directory, path = \"/mnt/disk1/fathom\""))?;
    let quota = entries
        .get("quota")
        .and_then(size)
        .ok_or_else(|| wrong("quota", "say how much may be used, quota = \"500 GiB\""))?;
    let reserve = match entries.get("reserve") {
        None => RESERVE_DEFAULT,
        Some(value) => size(value).ok_or_else(|| wrong("reserve", "must be a size such as \"10 GiB\""))?,
    };
    let device = DeviceConfig { path: PathBuf::from(path), quota, reserve };
    device.check().map_err(|problem| wrong("", &problem))?;
    Ok(device)
}
