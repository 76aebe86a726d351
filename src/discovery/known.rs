//! What is known of a name: its addresses, and how sure that is.

use std::{collections::BTreeMap, net::IpAddr};

/// The addresses of a name. What was once found stays until two answers in a row are without it: one may come from a server that is behind another. An answer
/// that fails, or is empty, takes nothing away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    /// With the number of answers in a row that were without it.
    addresses: BTreeMap<IpAddr, u8>,
}

/// What an answer changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Learnt {
    /// They are new.
    pub(super) added: Vec<IpAddr>,
    /// They are gone.
    pub(super) removed: Vec<IpAddr>,
    /// There was no room for so many.
    pub(super) left_out: usize,
}

/// After how many answers without it an address is gone.
const GONE: u8 = 2;

impl Known {
    /// The most addresses of a name.
    pub(super) const MOST: usize = 64;

    /// The addresses, in their order.
    pub(super) fn addresses(&self) -> impl ExactSizeIterator<Item = IpAddr> {
        self.addresses.keys().copied()
    }

    /// Takes an answer that did not fail.
    pub(super) fn learn(&mut self, answer: impl IntoIterator<Item = IpAddr>) -> Learnt {
        let mut learnt = Learnt::default();
        // An IPv4 address in the form of an IPv6 one is the same server.
        let mut answer: Vec<_> = answer.into_iter().map(|a| a.to_canonical()).collect();
        if answer.is_empty() {
            return learnt;
        }
        answer.sort_unstable();
        answer.dedup();
        self.addresses.retain(|address, missed| {
            *missed = match answer.binary_search(address) {
                Ok(_) => 0,
                Err(_) => *missed + 1,
            };
            let stays = *missed < GONE;
            if !stays {
                learnt.removed.push(*address);
            }
            stays
        });
        for address in answer {
            if self.addresses.contains_key(&address) {
                continue;
            }
            if self.addresses.len() >= Self::MOST {
                learnt.left_out += 1;
                continue;
            }
            self.addresses.insert(address, 0);
            learnt.added.push(address);
        }
        learnt
    }
}

impl Learnt {
    /// The addresses are others now.
    pub(super) fn is_news(&self) -> bool {
        !self.added.is_empty() || !self.removed.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, net::Ipv4Addr};

    use proptest::prelude::*;

    use super::*;

    fn addresses(last: &[u8]) -> Vec<IpAddr> {
        let all = last.iter().map(|last| Ipv4Addr::new(10, 0, 0, *last));
        all.map(IpAddr::V4).collect()
    }

    fn known(known: &Known) -> Vec<IpAddr> {
        known.addresses().collect()
    }

    #[test]
    fn an_address_comes_at_once_and_goes_after_two_answers_without_it() {
        let mut name = Known::default();
        let learnt = name.learn(addresses(&[2, 1, 2]));
        assert_eq!(learnt.added, addresses(&[1, 2]));
        assert!(!name.learn(addresses(&[2])).is_news());
        assert_eq!(known(&name), addresses(&[1, 2]));
        assert!(
            !name.learn(addresses(&[1])).is_news(),
            "each was missed once"
        );
        assert!(!name.learn(addresses(&[2, 1])).is_news());
        let learnt = [
            name.learn(addresses(&[2, 3])),
            name.learn(addresses(&[2, 3])),
        ];
        assert_eq!(
            (&learnt[0].added, &learnt[1].removed),
            (&addresses(&[3]), &addresses(&[1]))
        );
        assert!(
            !name.learn([]).is_news(),
            "nobody goes for an answer that is empty"
        );
        assert_eq!(known(&name), addresses(&[2, 3]));
    }

    #[test]
    fn a_mapped_address_is_the_one_that_it_maps() {
        let mut name = Known::default();
        let mapped = Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped();
        name.learn([IpAddr::V6(mapped)]);
        assert_eq!(known(&name), addresses(&[1]));
    }

    proptest! {
        /// Whatever the answers are, there is an end to the addresses; and an answer that is told over and over is what is known.
        #[test]
        fn what_is_told_again_is_what_is_known(
            answers in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..100), 0..8),
            last in proptest::collection::vec(any::<u8>(), 1..60),
        ) {
            let mut name = Known::default();
            let mut counted = 0;
            for answer in answers {
                let learnt = name.learn(addresses(&answer));
                counted = counted + learnt.added.len() - learnt.removed.len();
                prop_assert!(counted <= Known::MOST && counted == name.addresses().len());
            }
            for _ in 0..GONE {
                name.learn(addresses(&last));
            }
            let told: BTreeSet<_> = addresses(&last).into_iter().collect();
            prop_assert_eq!(known(&name), told.into_iter().collect::<Vec<_>>());
        }
    }
}
