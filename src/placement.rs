//! Which core runs on which CPU, and which shard on which core.
//!
//! Shard s lives on data core s mod N. Every core is pinned to a CPU of the process's affinity mask: outside of it
//! pinning would silently leave the mask.

use crate::config::Cores;

/// From so many CPUs on the control core has one to itself.
const SEPARATE_CONTROL: usize = 4;

/// The CPUs of all cores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// CPU of the control core.
    pub control: usize,
    /// CPU of each data core; one CPU may have several.
    pub data: Vec<usize>,
}

impl Placement {
    /// Decides by the configuration and the CPUs that the process may use. The error names the key.
    pub fn decide(allowed: &[usize], cores: &Cores, control_core: Option<usize>) -> Result<Self, String> {
        let check = |key: &str, cpu: usize| {
            if allowed.contains(&cpu) {
                return Ok(cpu);
            }
            Err(format!("`{key}` names CPU {cpu}, expected one that the process may use: {allowed:?}"))
        };
        let Some(&first) = allowed.first() else { return Err("the process may use no CPU at all".into()) };
        let control = control_core.map_or(Ok(first), |cpu| check("control_core", cpu))?;
        let own_control = allowed.len() >= SEPARATE_CONTROL;
        let preferred: Vec<usize> = allowed.iter().copied().filter(|cpu| !own_control || *cpu != control).collect();
        let data = match cores {
            Cores::Default => preferred,
            Cores::Count(count) => preferred.iter().copied().cycle().take(*count).collect(),
            Cores::Cpus(cpus) => cpus.iter().map(|cpu| check("cores", *cpu)).collect::<Result<_, _>>()?,
        };
        Ok(Self { control, data })
    }
}

/// The CPUs of the process's affinity mask.
pub fn allowed_cpus() -> Vec<usize> {
    let mut cpus: Vec<usize> = core_affinity::get_core_ids().unwrap_or_default().iter().map(|core| core.id).collect();
    cpus.sort_unstable();
    cpus
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decide(allowed: &[usize], cores: Cores, control: Option<usize>) -> (usize, Vec<usize>) {
        let Placement { control, data } = Placement::decide(allowed, &cores, control).unwrap();
        (control, data)
    }

    #[test]
    fn the_default_leaves_the_control_core_alone_from_four_cpus_on() {
        assert_eq!(decide(&[0], Cores::Default, None), (0, vec![0]));
        assert_eq!(decide(&[0, 1, 2], Cores::Default, None), (0, vec![0, 1, 2]));
        assert_eq!(decide(&[4, 5, 6, 7], Cores::Default, None), (4, vec![5, 6, 7]));
        assert_eq!(decide(&[4, 5, 6, 7], Cores::Default, Some(6)), (6, vec![4, 5, 7]));
    }

    #[test]
    fn counts_and_lists() {
        assert_eq!(decide(&[0, 1], Cores::Count(3), None), (0, vec![0, 1, 0]));
        assert_eq!(decide(&[0, 1, 2, 3], Cores::Count(2), None), (0, vec![1, 2]));
        assert_eq!(decide(&[0, 1, 2, 3], Cores::Cpus(vec![3, 0]), None), (0, vec![3, 0]));
    }

    #[test]
    fn cpus_outside_the_mask_are_refused() {
        let wrong = Placement::decide(&[0, 1], &Cores::Cpus(vec![1, 2]), None).unwrap_err();
        assert_eq!(wrong, "`cores` names CPU 2, expected one that the process may use: [0, 1]");
        let wrong = Placement::decide(&[0, 1], &Cores::Default, Some(9)).unwrap_err();
        assert_eq!(wrong, "`control_core` names CPU 9, expected one that the process may use: [0, 1]");
        assert!(Placement::decide(&[], &Cores::Default, None).is_err());
    }

    #[test]
    fn this_machine_has_cpus() {
        assert!(!allowed_cpus().is_empty());
    }
}
