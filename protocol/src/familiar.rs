//! Records whose signatures were verified a moment ago. What is shown again and again, such as a lease with every chunk that it takes, is
//! then known by a hash of its bytes, which costs a hundredth.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::ids::Hash;
use crate::sign::{Carried, Record, RecordError, Signed};

/// The newest records that verified, by a hash of label, body and signature. Bounded; the oldest go first. Several threads may
/// verify at once.
#[derive(Debug)]
pub struct Familiar {
    most: usize,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    known: BTreeSet<Hash>,
    order: VecDeque<Hash>,
}

impl Familiar {
    /// Remembers `most` records.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { most: most.max(1), seen: Mutex::default() }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As [`Carried::verify`]. The signature of a record that is remembered to the last byte is not looked at again.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn verify<T: Record>(&self, carried: Carried<T>) -> Result<Signed<T>, RecordError> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(T::LABEL.as_bytes()).update(&[0]).update(&carried.commitment().0);
        let name = Hash(*hasher.finalize().as_bytes());
        if self.seen().known.contains(&name) {
            return carried.attested();
        }
        let signed = carried.verify()?;
        let mut seen = self.seen();
        if seen.known.insert(name) {
            seen.order.push_back(name);
            while seen.order.len() > self.most {
                let oldest = seen.order.pop_front();
                oldest.map(|oldest| seen.known.remove(&oldest));
            }
        }
        Ok(signed)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use ed25519_dalek::SigningKey;

    use super::*;
    use crate::ids::{NodeId, OwnerId};
    use crate::tags;
    use crate::time::UnixMs;
    use crate::wire::Validation;

    fn word(at: u64) -> Carried<Validation> {
        let key = SigningKey::from_bytes(&[7; 32]);
        let word = Validation {
            version: tags::VERSION,
            owner: OwnerId(key.verifying_key().to_bytes()),
            vendor: NodeId([1; 32]),
            good: Default::default(),
            bad: Default::default(),
            at: UnixMs(at),
        };
        Signed::sign(word, &key).unwrap().into_carried()
    }

    /// The record with its last byte changed, which is of its signature.
    fn forged(of: &Carried<Validation>) -> Carried<Validation> {
        let mut bytes = crate::codec::encode(of);
        *bytes.last_mut().unwrap() ^= 1;
        crate::codec::decode(&bytes, 10_000).unwrap()
    }

    #[test]
    fn what_is_familiar_verifies_and_what_is_like_it_does_not() {
        let familiar = Familiar::new(2);
        for _ in 0..2 {
            assert!(familiar.verify(word(1)).is_ok());
            assert_eq!(familiar.verify(forged(&word(1))), Err(RecordError::BadSignature));
            assert_eq!(familiar.verify(forged(&word(9))), Err(RecordError::BadSignature));
        }
        assert_eq!(familiar.seen().known.len(), 1, "what was refused is not remembered");
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let familiar = Familiar::new(2);
        for at in [1, 2, 3, 3, 1] {
            assert!(familiar.verify(word(at)).is_ok());
            let seen = familiar.seen();
            assert!(seen.known.len() == seen.order.len() && seen.order.len() <= 2);
        }
    }
}
