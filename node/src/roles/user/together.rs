//! Questions to one node that come while others are on their way there go out together, as one.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fathom_protocol::ids::NodeId;
use tokio::sync::oneshot;

use super::store::lock;

/// How long questions are gathered after some went out together.
const GATHER: Duration = Duration::from_millis(2);

/// How many times a node is asked at a time.
const AT_A_TIME: usize = 2;

/// Questions to one node.
struct Queue<Q, A> {
    /// Each with whom to tell its answer.
    waiting: VecDeque<(Q, oneshot::Sender<A>)>,
    /// Tasks that ask.
    asking: usize,
}

/// Questions of one kind, and who waits for their answers.
pub(super) struct Together<Q, A> {
    /// Nodes that are asked now. Everything here is somebody's who waits, so there is no more than that.
    queues: Mutex<BTreeMap<NodeId, Queue<Q, A>>>,
    /// Questions that go out as one, at most.
    most: usize,
}

impl<Q: Send + 'static, A: Send + 'static> Together<Q, A> {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { queues: Mutex::default(), most })
    }

    /// What `node` says to `question`; none if `work` came to no answer for it. `work` takes questions and returns the answers in
    /// their order; [`AT_A_TIME`] calls of it run for a node, each in a task of its own, so that an asker who gives up takes
    /// nobody's answer away.
    pub(super) async fn ask<W, F>(self: &Arc<Self>, node: NodeId, question: Q, work: W) -> Option<A>
    where
        W: Fn(Vec<Q>) -> F + Send + 'static,
        F: Future<Output = Vec<A>> + Send,
    {
        let (asker, answer) = oneshot::channel();
        let idle = {
            let mut queues = lock(&self.queues);
            let queue = queues.entry(node).or_insert_with(|| Queue { waiting: VecDeque::new(), asking: 0 });
            queue.waiting.push_back((question, asker));
            let idle = queue.asking < AT_A_TIME;
            queue.asking += usize::from(idle);
            idle
        };
        if idle {
            let working = Working(Arc::clone(self), node);
            tokio::spawn(async move {
                while let Some((questions, askers)) = working.0.next(node) {
                    let many = askers.len() > 1;
                    for (asker, answer) in askers.into_iter().zip(work(questions).await) {
                        // Who gave up meanwhile needs no answer.
                        let _ = asker.send(answer);
                    }
                    // Where several ask at a time, more are about to. Who asks alone waits for nobody.
                    if many {
                        tokio::time::sleep(GATHER).await;
                    }
                }
            });
        }
        answer.await.ok()
    }

    /// What goes out next to `node`; nothing, and then this task asks it no more.
    fn next(&self, node: NodeId) -> Option<(Vec<Q>, Vec<oneshot::Sender<A>>)> {
        let mut queues = lock(&self.queues);
        let queue = queues.get_mut(&node)?;
        queue.waiting.retain(|(_, asker)| !asker.is_closed());
        if queue.waiting.is_empty() {
            queue.asking -= 1;
            if queue.asking == 0 {
                queues.remove(&node);
            }
            return None;
        }
        let some = queue.waiting.len().min(self.most);
        Some(queue.waiting.drain(..some).unzip())
    }
}

/// Whatever ends the task that asks, those who wait are not left waiting.
struct Working<Q, A>(Arc<Together<Q, A>>, NodeId);

impl<Q, A> Drop for Working<Q, A> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            lock(&self.0.queues).remove(&self.1);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use futures::future::join_all;

    const NODE: NodeId = NodeId([1; NodeId::LEN]);

    /// Doubles numbers, once `gate` opens, and notes how many came at a time.
    fn doubling(
        gate: &Arc<tokio::sync::Semaphore>,
        sizes: &Arc<Mutex<Vec<usize>>>,
    ) -> impl Fn(Vec<u32>) -> futures::future::BoxFuture<'static, Vec<u32>> + Send + 'static {
        let (gate, sizes) = (Arc::clone(gate), Arc::clone(sizes));
        move |numbers| {
            let (gate, sizes) = (Arc::clone(&gate), Arc::clone(&sizes));
            Box::pin(async move {
                lock(&sizes).push(numbers.len());
                let _open = gate.acquire().await.unwrap();
                assert!(!numbers.contains(&13), "a test of bad luck");
                numbers.into_iter().map(|number| 2 * number).collect()
            })
        }
    }

    #[tokio::test]
    async fn what_comes_while_one_is_asked_is_asked_as_one() {
        let (together, sizes) = (Together::new(8), Arc::new(Mutex::new(Vec::new())));
        let gate = Arc::new(tokio::sync::Semaphore::new(0));
        let asked = join_all((0..12).map(|number| together.ask(NODE, number, doubling(&gate, &sizes))));
        tokio::pin!(asked);
        assert!(futures::poll!(&mut asked).is_pending());
        // The first task takes what is there when it runs: all of one poll, as many as go out at a time.
        gate.add_permits(1);
        assert_eq!(asked.await, (0..12).map(|number| Some(2 * number)).collect::<Vec<_>>());
        assert_eq!(*lock(&sizes), [8, 4]);
        assert_eq!(together.ask(NODE, 5, doubling(&gate, &sizes)).await, Some(10), "and again from the start");
    }

    #[tokio::test]
    async fn nobody_waits_for_work_that_died() {
        let (together, sizes) = (Together::new(1), Arc::new(Mutex::new(Vec::new())));
        let gate = Arc::new(tokio::sync::Semaphore::new(1));
        let answers = join_all([13, 1].map(|number| together.ask(NODE, number, doubling(&gate, &sizes)))).await;
        assert_eq!(answers, [None, None]);
        assert_eq!(together.ask(NODE, 2, doubling(&gate, &sizes)).await, Some(4));
    }
}
