//! A share of something: a number from 0 to 1, checked when it is made.

/// A share, from 0 (none) to 1 (all).
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Share(f64);

impl Share {
    /// None of it.
    pub const NONE: Self = Self(0.0);

    /// Half of it.
    pub const HALF: Self = Self(0.5);

    /// All of it.
    pub const ALL: Self = Self(1.0);

    /// So many percent, at most 100.
    pub const fn percent(percent: u8) -> Self {
        let percent = if percent > 100 { 100 } else { percent };
        Self(percent as f64 / 100.0)
    }

    /// The share of this size; none unless it lies between 0 and 1.
    pub fn new(share: f64) -> Option<Self> {
        (0.0..=1.0).contains(&share).then_some(Self(share))
    }

    /// The number, from 0 to 1.
    pub fn get(self) -> f64 {
        self.0
    }

    /// `part` is some of `whole`, and at least this share of it.
    pub fn is_reached(self, part: u32, whole: u32) -> bool {
        // A hair of tolerance, so that 7 of 10 reach 0.7 although that has no exact double.
        part > 0 && f64::from(part) >= self.0 * f64::from(whole) * (1.0 - 1e-12)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_lies_between_none_and_all() {
        for bad in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
            assert_eq!(Share::new(bad), None, "{bad}");
        }
        assert_eq!(Share::new(0.0), Some(Share::NONE));
        assert_eq!(Share::new(1.0), Some(Share::ALL));
    }

    #[test]
    fn a_share_is_reached_exactly() {
        for percent in 1..=100_u32 {
            let share = Share::new(f64::from(percent) / 100.0).expect("a share");
            assert!(share.is_reached(percent, 100), "{percent}");
            assert!(!share.is_reached(percent - 1, 100), "{percent}");
        }
        assert!(!Share::NONE.is_reached(0, 100));
        assert!(Share::NONE.is_reached(1, 100));
    }
}
