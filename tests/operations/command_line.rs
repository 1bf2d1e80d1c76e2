//! The command line: what the program prints, and its exit codes.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    os::unix::net::UnixDatagram,
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use support::{confine, scratch};

fn run(name: &str, config: &str, arguments: &[&str], token: Option<&str>) -> Output {
    let directory = scratch(name);
    fs::write(directory.join("config.json"), config).expect("a file");
    let mut command = Command::new(env!("CARGO_BIN_EXE_gateway-proxy"));
    command.args(arguments).current_dir(directory).env_remove("TOKEN");
    command.envs(token.map(|token| ("TOKEN", token)));
    command.output().expect("a program that runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

#[test]
fn a_good_configuration_is_summed_up_without_the_token() {
    let output = run("good", r#"{"intents":513,"shards":4,"prot":1}"#, &["--check-config"], Some("very-secret"));
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{err}");
    assert!(out.contains("shards: 4") && out.contains("listen: 0.0.0.0:7878"), "{out}");
    assert!(err.contains("unknown key `prot`") && err.contains("`port`"), "{err}");
    assert!(!out.contains("very-secret") && !err.contains("very-secret"));
}

#[test]
fn a_bad_configuration_ends_with_2_and_says_why() {
    for (config, arguments, expected) in [
        (r#"{"intents":513}"#, &[][..], "`token` is missing, and so is the variable TOKEN"),
        (r#"{"intents":"x","token":"t"}"#, &["--check-config"], "config.json: `intents` is \"x\""),
        ("{", &[], "config.json: not JSON"),
        ("{}", &["--config", "elsewhere.json"], "elsewhere.json: can not be read"),
        (r#"{"intents":1,"token":"t","cores":[9999]}"#, &[], "config.json: `cores` is CPU 9999"),
        (r#"{"intents":1,"token":"t","log_level":"=="}"#, &[], "config.json: `log_level` is \"==\""),
    ] {
        let output = run("bad", config, arguments, None);
        let err = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{err}");
        assert!(err.contains(expected), "{err}");
    }
}

#[test]
fn a_busy_port_is_an_error() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("its address").port();
    let config = format!(r#"{{"intents":1,"token":"t","host":"127.0.0.1","port":{port}}}"#);
    let output = run("busy", &config, &[], None);
    let err = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.contains(&format!("127.0.0.1:{port} is in use")), "{err}");
}

#[test]
fn a_wrong_number_of_inherited_sockets_is_an_error() {
    let directory = scratch("inherited");
    fs::write(directory.join("config.json"), r#"{"intents":1,"token":"t","host":"127.0.0.1","port":1}"#)
        .expect("a file");
    // Descriptors 3 and 4 are open, so that only the number of sockets is wrong.
    let script = r#"exec 3</dev/null 4</dev/null; LISTEN_PID=$$ LISTEN_FDS=2 exec "$0""#;
    let mut command = Command::new("sh");
    command.args(["-c", script, env!("CARGO_BIN_EXE_gateway-proxy")]).current_dir(directory).env_remove("TOKEN");
    let output = command.output().expect("a program that runs");
    let err = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.contains("LISTEN_FDS is 2, expected 1"), "{err}");
}

#[test]
fn the_service_manager_is_told_when_the_port_is_open() {
    let directory = scratch("notify");
    let port = support::free_port();
    // Discord does not answer. The proxy opens its port in spite of that.
    let config =
        format!(r#"{{"intents":1,"token":"t","host":"127.0.0.1","port":{port},"twilight_http_proxy":"127.0.0.1:1"}}"#);
    fs::write(directory.join("config.json"), config).expect("a file");
    // A socket address has room for about 100 bytes, which the path of the test's directory may exceed.
    let socket = std::env::temp_dir().join(format!("gateway-proxy-notify-{}", std::process::id()));
    let manager = UnixDatagram::bind(&socket).expect("a socket");
    manager.set_read_timeout(Some(support::PATIENCE)).expect("a timeout");
    let mut command = Command::new(env!("CARGO_BIN_EXE_gateway-proxy"));
    command.current_dir(&directory).env_remove("TOKEN").env("NOTIFY_SOCKET", &socket);
    let _proxy = support::Process::start("gateway-proxy", command, &directory);
    let mut message = [0; 64];
    let length = manager.recv(&mut message).expect("a message of the proxy");
    assert_eq!(&message[..length], b"READY=1\n");
    TcpStream::connect(("127.0.0.1", port)).expect("the port is open");
    fs::remove_file(socket).expect("the socket's file");
}

#[test]
fn help_and_version() {
    let help = text(&run("help", "{}", &["--help"], None).stdout);
    for part in ["--config", "--check-config", "Examples:", "Exit codes:"] {
        assert!(help.contains(part), "{help}");
    }
    let version = text(&run("version", "{}", &["--version"], None).stdout);
    assert_eq!(version.trim(), concat!("gateway-proxy ", env!("CARGO_PKG_VERSION")));
}

#[test]
fn the_example_is_right() {
    let example = fs::read_to_string(support::root().join("config/config.example.json")).expect("the example");
    let output = run("example", &example, &["--check-config"], Some("t"));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(text(&output.stderr), "", "no warning");
}

/// A rule of a seccomp filter.
struct Deny {
    /// The number of the system call.
    call: libc::c_long,
    /// The rule applies only to calls with this second argument; `None` is any.
    second_argument: Option<u32>,
    /// The error that the caller gets.
    errno: i32,
}

/// Makes `command` run with a seccomp filter, as with a container's profile.
fn deny(command: &mut Command, rule: &Deny) {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    // Offsets in struct seccomp_data: the number of the call at 0, and the arguments, 8 bytes each in little endian,
    // from 16 on.
    const NUMBER: u32 = 0;
    const SECOND_ARGUMENT: u32 = 24;
    let statement = |code, k| libc::sock_filter { code, jt: 0, jf: 0, k };
    let mut program = vec![statement(LOAD, NUMBER)];
    // Any other call jumps to the last statement, which allows it.
    let left = if rule.second_argument.is_some() { 2 } else { 0 };
    program.push(libc::sock_filter { code: EQUAL, jt: 0, jf: left + 1, k: rule.call as u32 });
    if let Some(argument) = rule.second_argument {
        program.push(statement(LOAD, SECOND_ARGUMENT));
        program.push(libc::sock_filter { code: EQUAL, jt: 0, jf: 1, k: argument });
    }
    program.push(statement(RETURN, libc::SECCOMP_RET_ERRNO | rule.errno as u32));
    program.push(statement(RETURN, libc::SECCOMP_RET_ALLOW));
    confine(command, program);
}

/// Runs the proxy with a filter until it ends with an error. Returns its stderr.
fn run_denied(name: &str, rule: &Deny) -> String {
    let directory = scratch(name);
    let port = support::free_port();
    let config =
        format!(r#"{{"intents":1,"token":"t","host":"127.0.0.1","port":{port},"twilight_http_proxy":"127.0.0.1:1"}}"#);
    fs::write(directory.join("config.json"), config).expect("a file");
    let mut command = Command::new(env!("CARGO_BIN_EXE_gateway-proxy"));
    command.current_dir(directory).env_remove("TOKEN");
    deny(&mut command, rule);
    let mut child = command.stderr(Stdio::piped()).spawn().expect("a program that runs");
    let start = Instant::now();
    while child.try_wait().expect("the state of a child").is_none() {
        if start.elapsed() > support::PATIENCE {
            child.kill().expect("a child that runs");
            panic!("the proxy runs though {} is denied", rule.call);
        }
        thread::sleep(Duration::from_millis(20));
    }
    let output = child.wait_with_output().expect("a child that has ended");
    let err = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(!err.contains("panicked"), "{err}");
    err
}

/// Container profiles deny some of the calls, with different errors.
#[test]
fn a_denied_system_call_of_io_uring_is_named_with_what_to_do() {
    for (call, name) in [
        (libc::SYS_io_uring_setup, "io_uring_setup"),
        (libc::SYS_io_uring_enter, "io_uring_enter"),
        (libc::SYS_io_uring_register, "io_uring_register"),
    ] {
        for errno in [libc::EPERM, libc::EACCES, libc::ENOSYS] {
            let err = run_denied("denied", &Deny { call, second_argument: None, errno });
            assert!(err.contains(&format!("io_uring can not be used: {name} failed")), "{err}");
            assert!(
                err.contains("allow the system calls io_uring_setup, io_uring_enter and io_uring_register"),
                "{err}"
            );
        }
    }
}

/// A kernel before 5.19 does not support rings of provided buffers.
#[test]
fn an_old_kernel_is_told_which_one_is_needed() {
    const IORING_REGISTER_PBUF_RING: u32 = 22;
    let rule = Deny {
        call: libc::SYS_io_uring_register,
        second_argument: Some(IORING_REGISTER_PBUF_RING),
        errno: libc::EINVAL,
    };
    let err = run_denied("old_kernel", &rule);
    assert!(err.contains("io_uring can not be used: io_uring_register of a ring of provided buffers failed"), "{err}");
    assert!(err.contains("Linux 6.1 or newer is needed, and this is"), "{err}");
}
