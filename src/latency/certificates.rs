//! Which certificates the runs behind the baselines saw.
//!
//! A slow handshake with a new certificate is explained by it, and a farm of servers shows several in turn. So a certificate
//! counts as changed while it is newer than a baseline: of the last 63 passed runs, or of the last 24 hours in which a run
//! passed, those since it was first seen are not yet the majority. Called by `usual`.

use std::fmt::Write as _;

use super::{
    day_baseline::{HOURS, Hour, LEAST_HOURS, MOST as MOST_HOURS, continues},
    running_median::{LEN, WINDOW},
};

/// The most certificates that are remembered; the one that was not seen for the longest time goes first.
const MOST: usize = 8;

/// SHA-256 of a certificate.
pub(super) type CertificateHash = [u8; 32];

/// A certificate, and the runs and hours that saw it. The lowest bit is the newest run or hour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SeenCertificate {
    pub(super) sha256: CertificateHash,
    pub(super) runs: u64,
    pub(super) hours: u32,
}

/// The certificates of an account's last runs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Certificates {
    pub(super) seen: Vec<SeenCertificate>,
    /// The runs that are remembered, at most [`WINDOW`].
    pub(super) runs: u8,
    /// The hours that are remembered, at most [`HOURS`]; the newest of them is `hour`.
    pub(super) hours: u8,
    pub(super) hour: Hour,
}

impl Certificates {
    /// From its saved form; none if it is not possible.
    pub(super) fn restore(self) -> Option<Self> {
        let fits = |one: &SeenCertificate| {
            one.runs.checked_shr(self.runs.into()) == Some(0) && one.hours.checked_shr(self.hours.into()) == Some(0)
        };
        let possible = usize::from(self.runs) <= WINDOW && usize::from(self.hours) <= HOURS;
        (possible && self.seen.len() <= MOST && self.seen.iter().all(fits)).then_some(self)
    }

    /// Whether a certificate is newer than the baselines. None before `min_runs` runs with a certificate.
    pub(super) fn is_new(&self, sha256: &CertificateHash, min_runs: u32) -> Option<bool> {
        if u32::from(self.runs) < min_runs {
            return None;
        }
        let Some(one) = self.seen.iter().find(|one| one.sha256 == *sha256) else { return Some(true) };
        // Those since it was first seen, that one included.
        let runs = u64::BITS - one.runs.leading_zeros();
        let hours = u32::BITS - one.hours.leading_zeros();
        // The newest hour has not ended, so it is not in the baseline.
        let ended = u32::from(self.hours).saturating_sub(1);
        let is_majority = |part: u32, all: u32| 2 * part > all;
        let in_day = ended < u32::from(LEAST_HOURS) || is_majority(hours.saturating_sub(1), ended);
        Some(!(is_majority(runs, self.runs.into()) && in_day))
    }

    /// Of the others, the one that most runs saw, or else most hours.
    pub(super) fn other_than(&self, sha256: &CertificateHash) -> Option<&CertificateHash> {
        let others = self.seen.iter().filter(|one| one.sha256 != *sha256);
        others.max_by_key(|one| (one.runs.count_ones(), one.hours.count_ones())).map(|one| &one.sha256)
    }

    /// A passed run in this hour saw this certificate.
    pub(super) fn enter(&mut self, sha256: &CertificateHash, hour: Hour) {
        let begins = self.hours == 0 || !continues(self.hour, hour);
        for one in &mut self.seen {
            one.runs = (one.runs << 1) & !(u64::MAX << WINDOW);
            if begins {
                one.hours = (one.hours << 1) & !(u32::MAX << HOURS);
            }
        }
        self.runs = (self.runs + 1).min(LEN);
        if begins {
            (self.hour, self.hours) = (hour, (self.hours + 1).min(MOST_HOURS));
        }
        self.seen.retain(|one| one.runs != 0 || one.hours != 0);
        let at = self.seen.iter().position(|one| one.sha256 == *sha256).unwrap_or_else(|| {
            if self.seen.len() == MOST {
                let age = |one: &SeenCertificate| (one.runs.trailing_zeros(), one.hours.trailing_zeros());
                let oldest = (0..self.seen.len()).max_by_key(|at| age(&self.seen[*at]));
                oldest.map(|at| self.seen.swap_remove(at));
            }
            self.seen.reserve_exact(1);
            self.seen.push(SeenCertificate { sha256: *sha256, runs: 0, hours: 0 });
            self.seen.len() - 1
        });
        let one = &mut self.seen[at];
        (one.runs, one.hours) = (one.runs | 1, one.hours | 1);
    }
}

/// 64 hexadecimal digits as a hash.
pub(super) fn parse(hex: &str) -> Option<CertificateHash> {
    if hex.len() != 64 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut hash = CertificateHash::default();
    for (at, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(hex.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(hash)
}

/// The hash as 64 upper-case hexadecimal digits.
pub(super) fn to_hex(hash: &CertificateHash) -> String {
    let mut hex = String::with_capacity(2 * hash.len());
    for byte in hash {
        let _ = write!(hex, "{byte:02X}");
    }
    hex
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_remembered_while_one_of_the_runs_or_one_of_the_hours_saw_it() {
        let [one, other] = [[1; 32], [2; 32]];
        // A run an hour: the hours forget it first.
        let mut certificates = Certificates::default();
        certificates.enter(&one, 0);
        for hour in 1..WINDOW {
            certificates.enter(&other, Hour::try_from(hour).unwrap());
            assert_eq!(certificates.other_than(&other), Some(&one), "hour {hour}");
        }
        certificates.enter(&other, Hour::try_from(WINDOW).unwrap());
        assert_eq!(certificates.other_than(&other), None);
        // Many runs an hour: the runs forget it first.
        let mut certificates = Certificates::default();
        certificates.enter(&one, 0);
        for _ in 0..2 * WINDOW {
            certificates.enter(&other, 1);
        }
        assert_eq!(certificates.other_than(&other), Some(&one));
    }
}
