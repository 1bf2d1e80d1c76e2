//! Decides which core runs on which CPU, and how many data cores there are. Pins a thread to its CPU.
//!
//! Shard s lives on data core s mod N. Every core is pinned to a CPU of the process's affinity mask, because pinning
//! to another CPU would silently leave the mask.
//!
//! Nothing here reads `/sys`, which some containers hide: the kernel tells the affinity mask by a system call. That is
//! why threads are pinned here and not by glommio, whose `Placement::Fixed` reads the topology of all CPUs from `/sys`
//! and fails without it.
//!
//! By default N follows from the number of shards, not of CPUs. At 40,000 events a second one core is half busy
//! (`make bench`), and hundreds of shards have less traffic than that. A second core makes each event more expensive:
//! with two threads that sleep and wake up, an event rarely finds its core awake, while one busy core handles the
//! next event at once.

use crate::config::Cores;
use std::io;

/// Number of shards for each data core, unless the configuration sets the number of cores. At 20 events a second for
/// each shard, a busy average, 256 shards use less than a tenth of a core. The rest is for bursts, snapshots for
/// clients that connect, and compression.
pub const SHARDS_PER_CORE: usize = 256;

/// Why the cores can not be placed on CPUs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlacementError {
    /// The affinity mask of the process is empty, or can not be read.
    #[error("the process may use no CPU at all")]
    NoCpu,
    /// The configuration names a CPU outside of the process's affinity mask.
    #[error("`{key}` is CPU {cpu}, expected one that the process may use: {allowed:?}")]
    NotAllowed {
        /// The configuration key.
        key: &'static str,
        /// The CPU that the key names.
        cpu: usize,
        /// The CPUs of the mask.
        allowed: Vec<usize>,
    },
}

/// The CPUs of all cores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// CPU of the control core.
    pub control: usize,
    /// CPUs of the data cores. A CPU may occur more than once.
    data: Vec<usize>,
    /// The configuration does not set `cores`, so only as many of `data` are used as the shards need.
    by_shards: bool,
}

impl Placement {
    /// Chooses CPUs by the configuration and the CPUs that the process may use.
    pub fn decide(allowed: &[usize], cores: &Cores, control_core: Option<usize>) -> Result<Self, PlacementError> {
        let check = |key: &'static str, cpu: usize| {
            if allowed.contains(&cpu) {
                return Ok(cpu);
            }
            Err(PlacementError::NotAllowed { key, cpu, allowed: allowed.to_vec() })
        };
        let Some(&first) = allowed.first() else { return Err(PlacementError::NoCpu) };
        let control = control_core.map_or(Ok(first), |cpu| check("control_core", cpu))?;
        // A data core shares the CPU of the control core only when the other CPUs are taken.
        let mut preferred = allowed.to_vec();
        preferred.sort_by_key(|cpu| *cpu == control);
        let (data, by_shards) = match cores {
            Cores::Default => (preferred, true),
            Cores::Count(count) => (preferred.iter().copied().cycle().take(*count).collect(), false),
            Cores::Cpus(cpus) => (cpus.iter().map(|cpu| check("cores", *cpu)).collect::<Result<_, _>>()?, false),
        };
        Ok(Self { control, data, by_shards })
    }

    /// The CPU of each data core for this many shards. There is at least one data core.
    pub fn data(&self, shards: usize) -> &[usize] {
        let wanted = if self.by_shards { shards.div_ceil(SHARDS_PER_CORE).max(1) } else { self.data.len() };
        &self.data[..wanted.min(self.data.len())]
    }

    /// Largest number of data cores.
    pub fn most(&self) -> usize {
        self.data.len()
    }
}

/// The CPUs of the process's affinity mask.
pub fn allowed_cpus() -> Vec<usize> {
    let mut cpus: Vec<usize> = core_affinity::get_core_ids().unwrap_or_default().iter().map(|core| core.id).collect();
    cpus.sort_unstable();
    cpus
}

/// Pins the calling thread to a CPU. Threads that it starts from then on are pinned too.
///
/// # Errors
///
/// The kernel does not let the thread run on this CPU, because the CPU is offline or does not exist, or because the
/// CPUs that the process may use have changed.
pub fn pin_thread(cpu: usize) -> io::Result<()> {
    if cpu >= libc::CPU_SETSIZE as usize {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    if core_affinity::set_for_current(core_affinity::CoreId { id: cpu }) {
        Ok(())
    } else {
        // The call above ends with the system call that has failed.
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decide(allowed: &[usize], cores: Cores, control: Option<usize>, shards: usize) -> (usize, Vec<usize>) {
        let placement = Placement::decide(allowed, &cores, control).unwrap();
        (placement.control, placement.data(shards).to_vec())
    }

    #[test]
    fn by_default_there_are_as_many_as_the_shards_need_and_the_control_core_is_left_alone() {
        for (shards, data) in [(0, vec![5]), (1, vec![5]), (256, vec![5]), (257, vec![5, 6]), (9_999, vec![5, 6, 7, 4])]
        {
            assert_eq!(decide(&[4, 5, 6, 7], Cores::Default, None, shards), (4, data));
        }
        assert_eq!(decide(&[4, 5, 6, 7], Cores::Default, Some(6), 600), (6, vec![4, 5, 7]));
        assert_eq!(decide(&[0], Cores::Default, None, 2_000), (0, vec![0]));
        assert_eq!(decide(&[0, 1], Cores::Default, None, 20), (0, vec![1]));
    }

    #[test]
    fn counts_and_lists() {
        assert_eq!(decide(&[0, 1], Cores::Count(3), None, 1), (0, vec![1, 0, 1]));
        assert_eq!(decide(&[0, 1, 2, 3], Cores::Count(2), None, 1), (0, vec![1, 2]));
        assert_eq!(decide(&[0, 1, 2, 3], Cores::Cpus(vec![3, 0]), None, 1), (0, vec![3, 0]));
    }

    #[test]
    fn cpus_outside_the_mask_are_refused() {
        let wrong = Placement::decide(&[0, 1], &Cores::Cpus(vec![1, 2]), None).unwrap_err();
        assert_eq!(wrong.to_string(), "`cores` is CPU 2, expected one that the process may use: [0, 1]");
        let wrong = Placement::decide(&[0, 1], &Cores::Default, Some(9)).unwrap_err();
        assert_eq!(wrong.to_string(), "`control_core` is CPU 9, expected one that the process may use: [0, 1]");
        assert_eq!(Placement::decide(&[], &Cores::Default, None), Err(PlacementError::NoCpu));
    }

    #[test]
    fn this_machine_has_cpus() {
        assert!(!allowed_cpus().is_empty());
    }

    #[test]
    fn a_thread_is_pinned_to_the_cpu_or_the_error_is_the_kernels() {
        let cpu = *allowed_cpus().last().unwrap();
        // A thread of its own, because the threads of the test run need all CPUs.
        std::thread::spawn(move || {
            pin_thread(cpu).unwrap();
            assert_eq!(allowed_cpus(), [cpu]);
            // The kernel knows of no such CPU, and a mask has no room for the second one.
            assert_eq!(pin_thread(1023).unwrap_err().raw_os_error(), Some(libc::EINVAL));
            assert_eq!(pin_thread(1024).unwrap_err().kind(), io::ErrorKind::InvalidInput);
            assert_eq!(allowed_cpus(), [cpu]);
        })
        .join()
        .unwrap();
    }
}
