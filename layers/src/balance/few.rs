//! A list that needs no allocation while it is short.

/// Up to 16 values in place, more on the heap.
pub(super) struct Few<T> {
    few: [T; SHORT],
    len: usize,
    many: Vec<T>,
}

const SHORT: usize = 16;

impl<T: Copy> Few<T> {
    /// An empty list; the value only fills the place.
    pub(super) fn new(filler: T) -> Self {
        Self {
            few: [filler; SHORT],
            len: 0,
            many: Vec::new(),
        }
    }

    pub(super) fn push(&mut self, value: T) {
        if self.many.is_empty() && self.len < SHORT {
            self.few[self.len] = value;
            self.len += 1;
            return;
        }
        if self.many.is_empty() {
            self.many.extend_from_slice(&self.few);
            self.len = 0;
        }
        self.many.push(value);
    }

    pub(super) fn as_slice(&self) -> &[T] {
        if self.many.is_empty() {
            &self.few[..self.len]
        } else {
            &self.many
        }
    }

    /// Keeps what `keep` says yes to; all of it, if that is nothing.
    pub(super) fn prefer(&mut self, keep: impl Fn(&T) -> bool) {
        if !self.as_slice().iter().any(&keep) {
            return;
        }
        self.many.retain(&keep);
        let mut kept = 0;
        for at in 0..self.len {
            if keep(&self.few[at]) {
                self.few[kept] = self.few[at];
                kept += 1;
            }
        }
        self.len = kept;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_or_long_it_is_the_same_list() {
        for n in [0, 1, 15, 16, 17, 40] {
            let mut list = Few::new(0);
            for value in 0..n {
                list.push(value);
            }
            assert_eq!(list.as_slice(), (0..n).collect::<Vec<_>>());
            list.prefer(|value| *value > 1000);
            assert_eq!(list.as_slice().len(), n);
            list.prefer(|value| value % 2 == 0);
            assert!(list.as_slice().iter().all(|value| value % 2 == 0));
            assert_eq!(list.as_slice().len(), n.div_ceil(2));
        }
    }
}
