//! What other users of the machine can read of the proxy, and which system calls the proxy needs.

use super::*;
use calls::NUMBERS;
use std::{
    os::unix::{fs::MetadataExt, process::CommandExt},
    process::{Command, Stdio},
};
use support::{Process, confine, free_port, wait_until};

/// The token can also come from a systemd credential or from a file. Before, it could only come from the environment or
/// the configuration.
#[test]
fn the_token_may_be_a_credential_or_a_file() {
    let directory = scratch("credentials");
    fs::write(directory.join("config.json"), r#"{"intents":1,"host":"127.0.0.1"}"#).expect("a file");
    let check = |credentials: Option<&Path>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gateway-proxy"));
        command.arg("--check-config").current_dir(&directory).env_remove("TOKEN").env_remove("CREDENTIALS_DIRECTORY");
        command.envs(credentials.map(|path| ("CREDENTIALS_DIRECTORY", path)));
        let output = command.output().expect("a program that runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, error) = check(None);
    assert!(code == Some(2) && error.contains("`token` is missing"), "{error}");
    let (code, error) = check(Some(&directory));
    assert!(code == Some(2) && error.contains("`token` is missing"), "{error}");
    fs::write(directory.join("token"), "from-systemd\n").expect("a file");
    assert_eq!(check(Some(&directory)), (Some(0), String::new()));
    fs::write(directory.join("config.json"), r#"{"intents":1,"host":"127.0.0.1","token_file":"token"}"#)
        .expect("a file");
    let (code, warning) = check(None);
    assert_eq!(code, Some(0));
    let is_open = fs::metadata(directory.join("token")).expect("a file").mode() & 0o004 != 0;
    assert_eq!(warning.contains("every user of this machine can read"), is_open, "{warning}");
}

/// In an earlier version a debugger of the same user could read the token from memory, and a core file contained it.
#[test]
fn the_memory_of_the_process_is_hidden() {
    const SOMEBODY: u32 = 12_345;
    let directory = std::env::temp_dir().join(format!("gateway-proxy-hidden-{}", std::process::id()));
    fs::create_dir_all(&directory).expect("a directory");
    let port = free_port();
    let config = json!({
        "token": "t", "intents": 1, "host": "127.0.0.1", "port": port, "shards": 1, "twilight_http_proxy": "127.0.0.1:1",
    });
    fs::write(directory.join("config.json"), config.to_string()).expect("a file");
    // Other users may be unable to reach the directory of the original binary.
    let program = directory.join("gateway-proxy");
    fs::copy(env!("CARGO_BIN_EXE_gateway-proxy"), &program).expect("a copy");
    let mut command = Command::new(&program);
    command.current_dir(&directory).env_remove("TOKEN").stderr(Stdio::null());
    // SAFETY: geteuid has no preconditions.
    let own = unsafe { libc::geteuid() };
    let user = if own == 0 { SOMEBODY } else { own };
    if own == 0 {
        command.uid(user);
    }
    let mut child = command.spawn().expect("a program that runs");
    // The files in /proc of a process that is not dumpable belong to root; otherwise they belong to the process's user.
    let memory = format!("/proc/{}/mem", child.id());
    let owner = || fs::metadata(&memory).map(|metadata| metadata.uid());
    wait_until("the port", || TcpStream::connect(("127.0.0.1", port)).map(drop).map_err(|error| error.to_string()));
    let owner = owner();
    child.kill().expect("a child that runs");
    child.wait().expect("a child that has ended");
    fs::remove_dir_all(&directory).expect("a directory");
    assert_eq!(owner.expect("a process that runs"), 0, "the memory is user {user}'s");
}

/// The filter that a container runtime builds from the profile.
fn filter() -> Vec<libc::sock_filter> {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    // Offset of the number of the call in struct seccomp_data.
    const NUMBER: u32 = 0;
    let profile = fs::read_to_string(support::root().join("config/seccomp.json")).expect("the profile");
    let profile: Value = serde_json::from_str(&profile).expect("JSON");
    let statement = |code, k| libc::sock_filter { code, jt: 0, jf: 0, k };
    let mut program = vec![statement(LOAD, NUMBER)];
    for rule in profile["syscalls"].as_array().expect("rules") {
        let verdict = match rule["action"].as_str() {
            Some("SCMP_ACT_ALLOW") => libc::SECCOMP_RET_ALLOW,
            Some("SCMP_ACT_ERRNO") => {
                libc::SECCOMP_RET_ERRNO | u32::try_from(rule["errnoRet"].as_u64().expect("a number")).expect("small")
            }
            other => panic!("{other:?}"),
        };
        for name in rule["names"].as_array().expect("names") {
            let found = NUMBERS.iter().find(|(known, _)| name == known);
            let (_, number) = found.unwrap_or_else(|| panic!("{name} has a number"));
            // An equal number continues with the verdict, any other number skips the verdict.
            program.push(libc::sock_filter { code: EQUAL, jt: 0, jf: 1, k: *number as u32 });
            program.push(statement(RETURN, verdict));
        }
    }
    assert_eq!((&profile["defaultAction"], &profile["defaultErrnoRet"]), (&json!("SCMP_ACT_ERRNO"), &json!(1)));
    program.push(statement(RETURN, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32));
    program
}

/// Docker's own profile denies io_uring. Without a profile of ours, containers had to run without any filter.
#[test]
#[cfg(target_arch = "x86_64")]
fn the_profile_for_containers_allows_all_that_is_needed() {
    let directory = scratch("seccomp");
    let simulator = Simulator::start(&directory, WORLD);
    let port = free_port();
    let admin = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let config = json!({
        "token": support::TOKEN, "intents": INTENTS, "host": "127.0.0.1", "port": port, "shards": 1, "cores": 1,
        // A host name, so that the proxy has to look it up.
        "twilight_http_proxy": format!("localhost:{}", simulator.address.port()),
        "rest_proxy": format!("localhost:{}", simulator.address.port()),
        "externally_accessible_url": format!("ws://127.0.0.1:{port}"), "state_dir": "state",
        "admin_listen": admin.to_string(),
    });
    fs::write(directory.join("config.json"), config.to_string()).expect("a file");
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    for round in 0..2 {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gateway-proxy"));
        command.current_dir(&directory).env_remove("TOKEN");
        confine(&mut command, filter());
        let mut process = Process::start("gateway-proxy", command, &directory);
        let ready = wait_until("READY", || {
            if let Some(status) = process.ended() {
                panic!("it has ended: {status}: {}", log("seccomp"));
            }
            let mut gateway = Gateway::open(address, Transport::Zstd).map_err(|error| error.to_string())?;
            gateway.set_patience(Duration::from_secs(5));
            gateway.receive().map_err(|gone| format!("{gone:?}"))?;
            gateway.identify((0, 1), INTENTS);
            gateway.receive().map_err(|gone| format!("{gone:?}"))
        });
        assert_eq!(ready.t.as_deref(), Some("READY"));
        let request =
            format!("GET /api/users/@me HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bot {}\r\n\r\n", support::TOKEN);
        assert!(ask(address, &request).starts_with("HTTP/1.1 200 "));
        // READY may have come from the state file, before the shard has resumed.
        wait_until("the shard", || match get(admin, "/health") {
            Ok(health) if health.status == 200 => Ok(()),
            other => Err(format!("{other:?}")),
        });
        process.signal("TERM");
        let status = wait_until("the end", || process.ended().ok_or("it runs".to_owned()));
        assert!(status.success(), "{status}: {}", log("seccomp"));
        assert_eq!(simulator.resumes(), round, "the state was written and read");
    }
    let calls = filter().iter().filter(|statement| statement.jf == 1).count();
    assert!(calls < 200, "{calls} calls are no filter");
}

/// The unit limits the mode of new files, the memory and the system calls.
#[test]
fn the_unit_confines_the_process() {
    let unit = fs::read_to_string(support::root().join("config/gateway-proxy.service")).expect("the unit");
    let lines: Vec<&str> = unit.lines().map(str::trim).collect();
    for wanted in ["UMask=0077", "MemoryMax=80%", "SystemCallFilter=@system-service", "SystemCallArchitectures=native"]
    {
        assert!(lines.contains(&wanted), "{wanted}");
    }
    // systemd's filter has to allow the calls that the proxy needs. They are listed where systemd is installed.
    let Ok(listed) = Command::new("systemd-analyze").args(["syscall-filter", "@system-service"]).output() else {
        return;
    };
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let group = Command::new("systemd-analyze").args(["syscall-filter", "@aio"]).output().expect("it was there");
    let all = listed + &String::from_utf8_lossy(&group.stdout);
    for call in ["io_uring_setup", "io_uring_enter", "io_uring_register"] {
        assert!(all.lines().any(|line| line.trim() == call), "{call} in {all}");
    }
}
