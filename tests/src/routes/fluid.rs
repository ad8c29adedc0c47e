//! Chunks as fluids that flow along their chains in small steps of time, and links that are shared fairly.

use super::{CHUNK, CHUNKS, IN_FLIGHT, Policy, Topology};

/// One step, seconds.
const STEP: f64 = 0.005;
/// Until a chunk that is there is durable, seconds.
const DURABLE: f64 = 0.01;
/// Rounds in which what is left of the links is given out; more change next to nothing.
const ROUNDS: usize = 3;

/// A chunk under way.
struct Flow {
    chunk: usize,
    /// The user, and the vendors in their order.
    nodes: Vec<usize>,
    /// Bytes that each hop has carried.
    carried: Vec<f64>,
    /// When each vendor's receipt is at the user, once that is known.
    receipts: Vec<Option<f64>>,
    /// Whether it was told.
    told: Vec<bool>,
}

impl Flow {
    fn new(chunk: usize, way: &[usize]) -> Self {
        let nodes = std::iter::once(0).chain(way.iter().copied()).collect();
        let hops = way.len();
        Self { chunk, nodes, carried: vec![0.0; hops], receipts: vec![None; hops], told: vec![false; hops] }
    }
}

/// One hop of a flow that has something to carry: which, how much it may carry in this step, and how much it does.
struct Hop {
    flow: usize,
    hop: usize,
    from: usize,
    to: usize,
    most: f64,
    gets: f64,
}

/// Seconds until all chunks of a put are receipted.
pub(super) fn run(topology: &Topology, policy: &mut dyn Policy) -> f64 {
    let (mut now, mut next) = (0.0, 0);
    let mut flows: Vec<Flow> = Vec::new();
    while next < CHUNKS || !flows.is_empty() {
        while next < CHUNKS && flows.len() < IN_FLIGHT {
            let mut in_flight = vec![0; topology.homes.len()];
            flows.iter().flat_map(|flow| &flow.nodes).for_each(|node| in_flight[*node] += 1);
            let way = policy.begin(next, now, &in_flight);
            flows.push(Flow::new(next, &way));
            next += 1;
        }
        step(topology, &mut flows);
        now += STEP;
        for flow in &mut flows {
            note(topology, flow, now, policy);
        }
        flows.retain(|flow| {
            let done = flow.told.iter().all(|told| *told);
            if done {
                policy.end(flow.chunk, now);
            }
            !done
        });
    }
    now
}

/// Bytes flow for one step.
fn step(topology: &Topology, flows: &mut [Flow]) {
    let mut hops = Vec::new();
    for (number, flow) in flows.iter().enumerate() {
        for hop in 0..flow.carried.len() {
            let there = if hop == 0 { CHUNK as f64 } else { flow.carried[hop - 1] };
            let most = there - flow.carried[hop];
            if most > 0.5 {
                let (from, to) = (flow.nodes[hop], flow.nodes[hop + 1]);
                let left = topology.left(from, to);
                let link = topology.homes[from].up.min(topology.homes[to].down);
                hops.push(Hop { flow: number, hop, from, to, most: most.min(left * link * STEP), gets: 0.0 });
            }
        }
    }
    let mut up: Vec<f64> = topology.homes.iter().map(|home| home.up * STEP).collect();
    let mut down: Vec<f64> = topology.homes.iter().map(|home| home.down * STEP).collect();
    for _ in 0..ROUNDS {
        let (mut sending, mut receiving) = (vec![0.0; up.len()], vec![0.0; up.len()]);
        for hop in hops.iter().filter(|hop| hop.most > hop.gets) {
            sending[hop.from] += 1.0;
            receiving[hop.to] += 1.0;
        }
        let (up_was, down_was) = (up.clone(), down.clone());
        for hop in hops.iter_mut().filter(|hop| hop.most > hop.gets) {
            let share = (up_was[hop.from] / sending[hop.from]).min(down_was[hop.to] / receiving[hop.to]);
            let more = share.min(hop.most - hop.gets).max(0.0);
            hop.gets += more;
            up[hop.from] -= more;
            down[hop.to] -= more;
        }
    }
    for hop in hops {
        flows[hop.flow].carried[hop.hop] += hop.gets;
    }
}

/// Receipts are sent when a chunk is whole, and told when they are back.
fn note(topology: &Topology, flow: &mut Flow, now: f64, policy: &mut dyn Policy) {
    let mut way = 0.0;
    for hop in 0..flow.carried.len() {
        // Bytes forth and the receipt back, each along the chain.
        way += topology.round_trip_s(flow.nodes[hop], flow.nodes[hop + 1]);
        if flow.receipts[hop].is_none() && CHUNK as f64 - flow.carried[hop] < 1.0 {
            flow.receipts[hop] = Some(now + DURABLE + way);
        }
        if !flow.told[hop] && flow.receipts[hop].is_some_and(|at| at <= now) {
            flow.told[hop] = true;
            policy.receipt(flow.chunk, flow.nodes[hop + 1], now);
        }
    }
}
