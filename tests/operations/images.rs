//! The container images: built with the commands of `make release`, from files that are all there. Docker is not needed
//! for these checks.

use std::{fs, path::Path, process::Command};
use support::{root, scratch};

const CPUS: [&str; 3] = ["haswell", "x86-64", "znver3"];

fn dockerfile(cpu: &str) -> String {
    fs::read_to_string(root().join(format!("Dockerfile.{cpu}"))).expect("a Dockerfile")
}

/// The words of the instructions with this name in the stage that builds.
fn instructions(dockerfile: &str, name: &str) -> Vec<String> {
    let stage = dockerfile.split("\nFROM ").nth(1).expect("the stage that builds");
    stage.lines().filter_map(|line| line.strip_prefix(&format!("{name} "))).map(str::to_owned).collect()
}

#[test]
fn images_are_built_like_releases() {
    let makefile = fs::read_to_string(root().join("Makefile")).expect("the Makefile");
    let (_, recipe) = makefile.split_once("\nrelease: ").expect("the target");
    let command = recipe.lines().nth(1).expect("a command").trim();
    for cpu in CPUS {
        let dockerfile = dockerfile(cpu);
        let [flags] = &instructions(&dockerfile, "ENV")[..] else { panic!("one ENV in {dockerfile}") };
        let builds: Vec<String> =
            instructions(&dockerfile, "RUN").into_iter().filter(|run| run.starts_with("cargo ")).collect();
        let [build] = &builds[..] else { panic!("one build in {dockerfile}") };
        assert_eq!(format!("{flags} {build}"), command.replace("$(CPU)", cpu));
        // Nothing but the CPU differs.
        assert_eq!(dockerfile.replace(cpu, "CPU"), self::dockerfile(CPUS[0]).replace(CPUS[0], "CPU"));
    }
}

fn copy(from: &Path, to: &Path) {
    if from.is_dir() {
        fs::create_dir_all(to).expect("a directory");
        for entry in fs::read_dir(from).expect("a directory") {
            let entry = entry.expect("an entry");
            copy(&entry.path(), &to.join(entry.file_name()));
        }
    } else {
        fs::copy(from, to).expect("a copy");
    }
}

/// Cargo refuses a package of which it misses a file, also when it builds another part of it.
#[test]
fn the_files_in_an_image_are_a_whole_package() {
    let ignored = fs::read_to_string(root().join(".dockerignore")).expect("the file");
    let directory = scratch("image");
    for instruction in instructions(&dockerfile(CPUS[0]), "COPY") {
        let mut words: Vec<&str> = instruction.split_whitespace().collect();
        let to = words.pop().expect("a destination");
        for from in words {
            assert!(ignored.lines().any(|line| line == format!("!{from}")), "{from} does not reach Docker");
            let to = if to.ends_with("./") { directory.join(from) } else { directory.join(to) };
            copy(&root().join(from), &to);
        }
    }
    // `cargo metadata` accepts a manifest whose targets have no files, `cargo fetch` does not. Without a network it may
    // fail later, when it misses a crate.
    let output = Command::new(env!("CARGO"))
        .args(["fetch", "--locked", "--offline", "--target", "x86_64-unknown-linux-gnu"])
        .current_dir(&directory)
        .output()
        .expect("cargo runs");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!text.contains("failed to parse manifest"), "{text}");
    assert!(output.status.success() || text.contains("--offline"), "{text}");
}
