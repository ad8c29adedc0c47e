//! Making a network and adding nodes to it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use serde_json::Value;

use super::{Links, Net, NodeHandle, Phrase, absolute};
use crate::cli::Call;
use crate::files::{State, create_dir, free_port, port_is_free, remove_dir};
use crate::link::Mesh;
use crate::spec::{Entry, NodePlan};
use crate::{CliOutput, Spec, TestnetError, VendorSpec};

/// How often a node is made anew when another program took its port between choosing and binding.
const PORT_CLASHES: usize = 5;
/// The longest path of a Unix socket, less the end of string.
const SOCKET_PATH: usize = 107;
/// The longest path below the network's directory that is a socket.
const LONGEST_SOCKET: &str = "/bootstrap/control.sock";
/// A final FAT counts as stored at this many mirrors, so a user should reach as many.
const MIRRORS_REACHED: usize = 3;

impl Net {
    /// Makes the network of `spec` below `dir`, which is created, and starts it. Returns when every
    /// node is ready, every mirror lists every vendor with its capacity, and every user reaches
    /// mirrors. `binary` is the `fathom` program.
    ///
    /// # Errors
    /// [`TestnetError::Usage`] when `dir` holds a network or its path is too long for a socket;
    /// [`TestnetError::Node`] with the end of the log of the node that failed;
    /// [`TestnetError::Deadline`]; those of the node's commands. On an error all processes that
    /// were started are killed; their files stay, to be looked at.
    pub fn up(binary: &Path, dir: &Path, spec: Spec) -> Result<Self, TestnetError> {
        spec.check()?;
        let dir = absolute(dir)?;
        if dir.as_os_str().len() + LONGEST_SOCKET.len() > SOCKET_PATH {
            return Err(TestnetError::Usage(format!(
                "the path {} is too long for the nodes' control sockets; choose a shorter one",
                dir.display()
            )));
        }
        if State::path(&dir).exists() {
            return Err(TestnetError::Usage(format!(
                "{} holds a testnet already; end it with `fathom testnet down --dir {}`",
                dir.display(),
                dir.display()
            )));
        }
        create_dir(&dir)?;
        let mut net = Self {
            dir,
            binary: absolute(binary)?,
            invite: None,
            exit_with_parent: spec.exit_with_parent,
            cancel: spec.cancel.clone(),
            ready_timeout: spec.ready_timeout,
            nodes: Vec::new(),
            phrases: BTreeMap::new(),
            processes: Mutex::default(),
            kill_on_drop: AtomicBool::new(true),
            links: (!spec.links.is_empty()).then(|| Links {
                mesh: Mesh::default(),
                specs: spec.links.clone(),
                ports: BTreeMap::new(),
            }),
        };
        net.save()?;
        net.populate(&spec)?;
        Ok(net)
    }

    /// Adds a user called `name` and starts it. Without `phrase` it gets keys of its own, see
    /// [`Net::phrase`]; with one, it is made without keys and recovers those of the phrase.
    ///
    /// # Errors
    /// As [`Net::up`]; [`TestnetError::Usage`] when the name is taken.
    pub fn add_user(
        &mut self,
        name: &str,
        phrase: Option<&str>,
        set: &[(String, String)],
    ) -> Result<&NodeHandle, TestnetError> {
        let mut plan = NodePlan::new(name, "user", self.entry()?);
        plan.set = set.to_vec();
        plan.no_phrase = phrase.is_some();
        self.make(&plan)?;
        if let Some(phrase) = phrase {
            let words = format!("{phrase}\n");
            self.cli_stdin(name, &["recover"], words.as_bytes())?.ok()?;
            self.phrases.insert(name.to_owned(), Phrase(phrase.to_owned()));
        }
        self.bring_up(vec![plan])?;
        self.await_users(&[name])?;
        self.node(name)
    }

    /// Adds a vendor called `name`, starts it and waits until every living mirror lists it.
    ///
    /// # Errors
    /// As [`Net::up`]; [`TestnetError::Usage`] when the name is taken.
    pub fn add_vendor(&mut self, name: &str, vendor: &VendorSpec) -> Result<&NodeHandle, TestnetError> {
        let mut plan = NodePlan::new(name, "vendor", self.entry()?);
        plan.vendor = Some(vendor.clone());
        self.make(&plan)?;
        self.bring_up(vec![plan])?;
        self.await_vendors(&[name])?;
        self.node(name)
    }

    /// Adds a mirror called `name`, starts it and waits until it is ready; what it has caught up
    /// with by then is for the caller to see.
    ///
    /// # Errors
    /// As [`Net::up`]; [`TestnetError::Usage`] when the name is taken.
    pub fn add_mirror(&mut self, name: &str, set: &[(String, String)]) -> Result<&NodeHandle, TestnetError> {
        let mut plan = NodePlan::new(name, "mirror", self.entry()?);
        plan.set = set.to_vec();
        self.make(&plan)?;
        self.bring_up(vec![plan])?;
        self.node(name)
    }

    fn populate(&mut self, spec: &Spec) -> Result<(), TestnetError> {
        let found = Entry::Found(spec.network.clone());
        let first_mirror = if spec.bootstrap {
            self.found(NodePlan::new("bootstrap", "bootstrap", found))?;
            1
        } else {
            let mut plan = NodePlan::new("mirror-1", "mirror", found);
            plan.set.clone_from(&spec.mirror_set);
            self.found(plan)?;
            2
        };
        let entry = self.entry()?;
        let mut plans = Vec::new();
        for number in first_mirror..=spec.mirrors {
            let mut plan = NodePlan::new(&format!("mirror-{number}"), "mirror", entry.clone());
            plan.set.clone_from(&spec.mirror_set);
            plans.push(plan);
        }
        for number in 1..=spec.vendors {
            let mut plan = NodePlan::new(&format!("vendor-{number}"), "vendor", entry.clone());
            plan.vendor = Some(spec.vendor(number));
            plans.push(plan);
        }
        for number in 1..=spec.users {
            let mut plan = NodePlan::new(&format!("user-{number}"), "user", entry.clone());
            plan.set.clone_from(&spec.user_set);
            plans.push(plan);
        }
        for plan in &plans {
            self.make(plan)?;
        }
        self.bring_up(plans)?;
        let names = |role| -> Vec<String> { self.with_role(role).map(|node| node.name.clone()).collect() };
        self.await_vendors(&names("vendor"))?;
        self.await_users(&names("user"))
    }

    /// Makes and starts the node that founds the network, and asks it for the invite.
    fn found(&mut self, plan: NodePlan) -> Result<(), TestnetError> {
        let name = plan.name.clone();
        self.make(&plan)?;
        self.bring_up(vec![plan])?;
        let invite = self.cli(&name, &["invite"])?.ok()?;
        self.invite = Some(invite.str_at("/invite")?.to_owned());
        self.save()
    }

    fn entry(&self) -> Result<Entry, TestnetError> {
        self.invite
            .clone()
            .map(Entry::Join)
            .ok_or_else(|| TestnetError::Usage("this network was never up: it has no invite".to_owned()))
    }

    /// Makes a node's directory, devices and configuration; starts nothing.
    fn make(&mut self, plan: &NodePlan) -> Result<(), TestnetError> {
        if self.nodes.iter().any(|node| node.name == plan.name) {
            return Err(TestnetError::Usage(format!("there is a node {} already", plan.name)));
        }
        let node = self.init(plan)?;
        self.nodes.push(node);
        self.save()
    }

    fn init(&mut self, plan: &NodePlan) -> Result<NodeHandle, TestnetError> {
        let dir = self.dir.join(&plan.name);
        create_dir(&dir)?;
        let devices = plan.devices(&dir);
        for device in &devices {
            create_dir(device)?;
        }
        let port = free_port()?;
        let plan = &self.behind_link(plan, port)?;
        let call = Call {
            binary: &self.binary,
            dir: &dir,
            args: &plan.init_args(&dir, port),
            stdin: b"",
            limit: self.ready_timeout,
            cancel: &self.cancel,
        };
        let answer = call.run(&mut |_| {})?.ok()?;
        if let Some(phrase) = answer.json.get("phrase").and_then(Value::as_str) {
            self.phrases.insert(plan.name.clone(), Phrase(phrase.to_owned()));
        }
        Ok(NodeHandle {
            name: plan.name.clone(),
            roles: vec![plan.role.to_owned()],
            zone: plan.vendor.as_ref().map(|vendor| vendor.zone.clone()),
            dir,
            node: String::new(),
            peer_id: String::new(),
            addresses: Vec::new(),
            devices,
        })
    }

    /// The plan of a node that listens on `port`, with the address under which others reach it over its link.
    fn behind_link(&mut self, plan: &NodePlan, port: u16) -> Result<NodePlan, TestnetError> {
        let mut plan = plan.clone();
        if let Some(links) = &mut self.links {
            let spec = links.specs.get(&plan.name).copied().unwrap_or_default();
            let no_link = |error| TestnetError::Usage(format!("{} gets no link: {error}", plan.name));
            let front = links.mesh.join(port, spec).map_err(no_link)?;
            links.ports.insert(plan.name.clone(), port);
            let known_as = format!("/ip4/127.0.0.1/udp/{front}/quic-v1");
            plan.set.push(("node.external".to_owned(), known_as));
            plan.set.push(("node.announce_own".to_owned(), "0".to_owned()));
        }
        Ok(plan)
    }

    /// Starts nodes that were made, all at once, and waits until each is ready.
    fn bring_up(&mut self, plans: Vec<NodePlan>) -> Result<(), TestnetError> {
        for plan in &plans {
            self.spawn(self.node(&plan.name)?)?;
        }
        for plan in plans {
            let mut clashes = 0;
            let ready = loop {
                match self.await_ready(self.node(&plan.name)?) {
                    Ok(ready) => break ready,
                    Err(error) => {
                        clashes += 1;
                        if clashes > PORT_CLASHES || !self.remake_after_clash(&plan)? {
                            return Err(error);
                        }
                    }
                }
            };
            if let Some(node) = self.nodes.iter_mut().find(|node| node.name == plan.name) {
                node.node = ready.node;
                node.peer_id = ready.peer_id;
                node.addresses = ready.addresses;
            }
            self.save()?;
        }
        Ok(())
    }

    /// When the node died because another program has its port, makes it anew with another one and
    /// starts it. False when that is not the cause, or when its keys are not ours to replace.
    fn remake_after_clash(&mut self, plan: &NodePlan) -> Result<bool, TestnetError> {
        let dead = self.process_state(&plan.name).0 == crate::ProcessState::Dead;
        let node = self.node(&plan.name)?;
        let config = std::fs::read_to_string(node.dir.join("fathom.toml")).unwrap_or_default();
        let taken = configured_port(&config).is_some_and(|port| !port_is_free(port));
        if !dead || !taken || plan.no_phrase {
            return Ok(false);
        }
        remove_dir(&node.dir)?;
        let node = self.init(plan)?;
        if let Some(old) = self.nodes.iter_mut().find(|old| old.name == plan.name) {
            *old = node;
        }
        self.spawn(self.node(&plan.name)?)?;
        Ok(true)
    }

    /// Waits until every living mirror lists these vendors with a capacity.
    fn await_vendors<N: AsRef<str>>(&self, names: &[N]) -> Result<(), TestnetError> {
        let mut wanted = Vec::new();
        for name in names {
            wanted.push(self.node(name.as_ref())?);
        }
        for mirror in self.with_role("mirror") {
            if wanted.is_empty() || self.state(&mirror.name)? != crate::ProcessState::Running {
                continue;
            }
            let mut last = None;
            let lists_all = || {
                let fat = self.cli(&mirror.name, &["fat"])?;
                let missing = wanted.iter().find(|vendor| !lists(&fat, &vendor.node));
                last = missing.map(|vendor| (vendor.name.clone(), answer_line(&fat)));
                Ok(last.is_none().then_some(()))
            };
            let waited = self.wait_for(self.ready_timeout, "all vendors are listed", lists_all);
            if let (Err(TestnetError::Deadline { seconds, .. }), Some((vendor, answer))) = (&waited, last) {
                let why = format!("did not list {vendor} with a capacity after {seconds} s; its last FAT: {answer}");
                return Err(mirror.error(why));
            }
            waited?;
        }
        Ok(())
    }

    /// Waits until these users reach as many mirrors as a put needs, or all that there are.
    fn await_users<N: AsRef<str>>(&self, names: &[N]) -> Result<(), TestnetError> {
        let alive = |name: &str| self.process_state(name).0 == crate::ProcessState::Running;
        let mirrors = self.with_role("mirror").filter(|mirror| alive(&mirror.name)).count();
        let wanted = mirrors.min(MIRRORS_REACHED);
        for name in names {
            let user = self.node(name.as_ref())?;
            let mut last = String::new();
            let reaches = || {
                let status = self.cli(&user.name, &["status"])?;
                last = answer_line(&status);
                let list = status.json["mirrors"].as_array().map_or(&[][..], Vec::as_slice);
                let reached = list.iter().filter(|mirror| mirror["reachable"] == true).count();
                Ok((reached >= wanted).then_some(()))
            };
            let waited = self.wait_for(self.ready_timeout, "mirrors are reached", reaches);
            if let Err(TestnetError::Deadline { seconds, .. }) = &waited {
                let why = format!("did not reach {wanted} mirrors after {seconds} s; its last status: {last}");
                return Err(user.error(why));
            }
            waited?;
        }
        Ok(())
    }
}

/// Whether a mirror's FAT lists the vendor with this node id and a capacity.
fn lists(fat: &CliOutput, node_id: &str) -> bool {
    let vendors = fat.json["vendors"].as_array().map_or(&[][..], Vec::as_slice);
    vendors
        .iter()
        .any(|vendor| vendor["vendor"] == node_id && vendor["capacity"].as_u64().is_some_and(|bytes| bytes > 0))
}

/// What a command said last, short enough for an error message.
fn answer_line(output: &CliOutput) -> String {
    let text = if output.json.is_null() { output.stderr.clone() } else { output.json.to_string() };
    let text = text.trim();
    let cut = text.char_indices().nth(400).map_or(text.len(), |(index, _)| index);
    format!("exit code {}, {}", output.code, &text[..cut])
}

/// The port in the `listen` line of a node's configuration.
fn configured_port(config: &str) -> Option<u16> {
    let (_, rest) = config.split_once("/ip4/127.0.0.1/udp/")?;
    rest.split('/').next()?.parse().ok()
}
