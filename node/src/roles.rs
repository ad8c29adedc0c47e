//! What a node can be: each role is a module that uses the network through [`crate::net`] and knows nothing of the
//! others.

mod claim;
pub mod mirror;
pub mod user;
pub mod vendor;

/// Every version with a lower counter, as one says that came after more than can be named.
#[cfg(test)]
pub(crate) fn all_before(seq: fathom_protocol::fat::Tag) -> fathom_protocol::fat::Follows {
    use fathom_protocol::fat::{Follows, Lineage, Tag};
    let none = Follows::default();
    let last = (0..fathom_protocol::limits::FOLLOWS_MAX as u16).filter(|_| seq.counter() > 0);
    let last = last.map(|back| Tag::new(seq.counter() - 1, u16::MAX - back));
    Follows::all_of(last.map(|seq| Lineage { base: seq, seq, follows: &none }), None)
}
