//! `fathom init`: everything on disk, nothing on the network.

use std::fmt::Write as _;

use serde_json::json;

use super::Context;
use super::args::InitOptions;
use super::output::Answer;
use crate::config::{Config, ConfigError, Role, render_commented};
use crate::control::{CommandError, ErrorKind};
use crate::home::{Home, HomeError, MODE_PUBLIC, create_atomic};
use crate::identity::{IdentityError, NodeKey, UserSecret};
use crate::network;

/// Words of the phrase on one line.
const WORDS_PER_LINE: usize = 6;

pub(super) fn init(context: &Context, options: &InitOptions) -> Result<Answer, CommandError> {
    // Everything that can be refused is refused before anything is written.
    let config = configure(options)?;
    let network = match (&options.network, &options.new_network) {
        (Some(source), _) => Some(network::read(source)?),
        (None, Some(name)) => Some(network::found(name)?),
        (None, None) => None,
    };
    if let (Some(_), Some(descriptor)) = (&options.network, &network) {
        network::check_enterable(descriptor)?;
    }
    let home = Home::create(&context.dir)?;
    let _lock = home.lock()?;
    if home.config().exists() {
        return Err(exists(&home));
    }
    create_devices(&config)?;
    // An init that was cut short has left keys but no configuration: they are taken over, never replaced.
    let node = match NodeKey::load(&home) {
        Err(IdentityError::NoNodeKey(_)) => NodeKey::create(&home)?,
        other => other?,
    };
    let user = match (config.has(Role::User), options.no_phrase) {
        (true, false) => Some(match UserSecret::load(&home) {
            Err(IdentityError::NoUserKey(_)) => UserSecret::create(&home)?,
            other => other?,
        }),
        _ => None,
    };
    if let Some(descriptor) = &network {
        network::store(&home, descriptor)?;
    }
    match create_atomic(&home.config(), render_commented(&config).as_bytes(), MODE_PUBLIC) {
        Err(HomeError::Exists(_)) => return Err(exists(&home)),
        other => other?,
    }
    let text = text(&home, &config, &node, user.as_ref(), network.is_some(), options);
    Ok(Answer::new(to_json(&home, &config, &node, user.as_ref()), text))
}

fn exists(home: &Home) -> CommandError {
    CommandError::new(ErrorKind::Other, format!("there is a node in {} already", home.dir().display()))
        .hint("change its fathom.toml, or name another directory with --dir")
}

/// The configuration that the options describe.
fn configure(options: &InitOptions) -> Result<Config, CommandError> {
    let usage = |error: ConfigError| {
        let error = CommandError::from(error);
        CommandError { kind: ErrorKind::Usage, ..error }
    };
    let mut config = Config::default();
    let roles: Vec<&str> = options.role.iter().map(|role| role.name()).collect();
    config.set("node.roles", &roles.join(",")).map_err(usage)?;
    if !options.listen.is_empty() {
        config.set("node.listen", &options.listen.join(",")).map_err(usage)?;
    }
    for (key, value) in [("vendor.zone", &options.zone), ("vendor.operator", &options.operator)] {
        if let Some(value) = value {
            config.set(key, value).map_err(usage)?;
        }
    }
    config.vendor.devices.clone_from(&options.device);
    for assignment in &options.set {
        let (key, value) =
            assignment.split_once('=').ok_or_else(|| usage(ConfigError::NoAssignment(assignment.clone())))?;
        config.set(key.trim(), value).map_err(usage)?;
    }
    config.check().map_err(usage)?;
    if !config.vendor.devices.is_empty() && !config.has(Role::Vendor) {
        return Err(CommandError::new(ErrorKind::Usage, "devices were named for a node that is no vendor")
            .hint("add vendor to --role, or leave --device out"));
    }
    if options.no_phrase && !config.has(Role::User) {
        return Err(CommandError::new(ErrorKind::Usage, "--no-phrase is for the role user")
            .hint("add user to --role, or leave --no-phrase out"));
    }
    Ok(config)
}

/// Makes the last part of each device's path. A missing parent is an error: it may be a disk that is not mounted.
fn create_devices(config: &Config) -> Result<(), CommandError> {
    for device in &config.vendor.devices {
        if device.path.is_dir() {
            continue;
        }
        std::fs::create_dir(&device.path).map_err(|error| {
            CommandError::new(
                ErrorKind::NotFound,
                format!("failed to create the device's directory {}: {error}", device.path.display()),
            )
            .hint("create the directory above it, or mount its disk, and repeat the command")
        })?;
    }
    Ok(())
}

fn to_json(home: &Home, config: &Config, node: &NodeKey, user: Option<&UserSecret>) -> serde_json::Value {
    let mut json = json!({
        "node": node.node_id().to_string(),
        "peer_id": node.peer_id(),
        "dir": home.dir(),
        "roles": config.node.roles,
    });
    if let Some(user) = user {
        json["owner"] = json!(user.owner().to_string());
        json["phrase"] = json!(user.words().as_str());
    }
    json
}

fn text(
    home: &Home,
    config: &Config,
    node: &NodeKey,
    user: Option<&UserSecret>,
    in_network: bool,
    options: &InitOptions,
) -> String {
    let roles: Vec<&str> = config.node.roles.iter().map(|role| role.name()).collect();
    let mut text = format!(
        "Created a node ({}) in {}.\n  node: {}\n  configuration: {}\n",
        roles.join(", "),
        home.dir().display(),
        node.node_id(),
        home.config().display()
    );
    // Writing to a String cannot fail.
    if let Some(user) = user {
        let words = user.words();
        let words: Vec<&str> = words.split(' ').collect();
        text.push_str("\nYour recovery phrase. Write it down and keep it safe:\n\n");
        for line in words.chunks(WORDS_PER_LINE) {
            let _ = writeln!(text, "    {}", line.join(" "));
        }
        text.push_str(
            "\nIt is shown this once. With it, all your files can be brought back on any machine;\n\
             without it and without user.key, nobody can. Whoever has it can read your files.\n",
        );
    }
    text.push_str("\nNext:\n");
    if options.no_phrase {
        text.push_str("  fathom recover      brings the user back from its recovery phrase\n");
    }
    if !in_network {
        text.push_str("  fathom join INVITE  enters a network\n");
    }
    if config.has(Role::Vendor) && config.vendor.devices.is_empty() {
        text.push_str("  name a device in fathom.toml: a vendor without one offers nothing\n");
    }
    text.push_str("  fathom run          runs the node\n");
    if options.new_network.is_some() {
        text.push_str("  fathom invite       prints the invite for others, while the node runs\n");
    }
    if user.is_some() {
        text.push_str("  fathom put PATH     stores a file or a directory\n");
    }
    text
}
