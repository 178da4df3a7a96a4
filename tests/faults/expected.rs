//! What a run comes to by docs/telemetry.md when one call of it fails: by the call, the way it fails and the step that is under
//! way. Knows nothing of how the program finds out.

use imaptrace_record::ErrorType;

use crate::kernel::{Call, Fault, Seen};

/// What a run comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expected {
    /// As if nothing had happened.
    Passes,
    /// At this step, with this class.
    Fails(&'static str, ErrorType),
    /// The run passes, and this step has failed.
    StepAlone(&'static str, ErrorType),
}

use Expected::{Fails, Passes, StepAlone};

pub(crate) fn expected(seen: Seen, fault: Fault) -> Expected {
    match seen.call {
        // No answer of the kernel to these is worth a run.
        Call::Option | Call::Info | Call::Stamp => Passes,
        Call::LookupSocket
        | Call::LookupBind
        | Call::LookupRegister
        | Call::LookupConnect
        | Call::LookupSend
        | Call::LookupReceive => look_up(seen.call, fault),
        Call::Socket
        | Call::NoDelay
        | Call::Bind
        | Call::Connect
        | Call::Connected
        | Call::LocalAddress
        | Call::Register => Fails("connect", connection(seen.call, fault)),
        Call::Read => conversation(seen.stage.reading, fault, false),
        Call::Write => conversation(seen.stage.writing, fault, true),
    }
}

/// What the machine itself refuses says nothing of the server, and `up` stays as it was. Anything else that fails once is
/// made up for when the server is asked a second time.
fn look_up(call: Call, fault: Fault) -> Expected {
    let class = match fault {
        Fault::Error(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS | libc::ENOSPC) => {
            ErrorType::OverloadFd
        }
        Fault::Error(libc::EADDRINUSE) if call == Call::LookupBind => ErrorType::OverloadPort,
        // Nothing is left of the step's time then.
        Fault::Hang => ErrorType::TimeoutResolve,
        _ => return Passes,
    };
    Fails("resolve", class)
}

fn connection(call: Call, fault: Fault) -> ErrorType {
    match fault {
        Fault::Error(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS | libc::ENOSPC) => {
            ErrorType::OverloadFd
        }
        Fault::Error(libc::EADDRNOTAVAIL | libc::EACCES) if call == Call::Bind => ErrorType::AddressDenied,
        Fault::Error(libc::EADDRNOTAVAIL | libc::EADDRINUSE) => ErrorType::OverloadPort,
        Fault::Error(libc::ECONNREFUSED) => ErrorType::ConnectRefused,
        Fault::Error(libc::ECONNRESET) => ErrorType::Reset,
        Fault::Error(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EPERM) => ErrorType::ConnectUnreachable,
        Fault::Error(libc::ETIMEDOUT) | Fault::Hang => ErrorType::TimeoutConnect,
        _ => ErrorType::Internal,
    }
}

/// A read or a write of the connection while this step was under way.
fn conversation(step: &'static str, fault: Fault, write: bool) -> Expected {
    let class = match fault {
        Fault::Short | Fault::Full | Fault::Error(libc::EINTR) => return Passes,
        Fault::End => ErrorType::Eof,
        // The kernel says so to whoever writes after the other side has said that it is done.
        Fault::Error(libc::EPIPE) if step != "tls" && step != "connect" => ErrorType::Eof,
        Fault::Error(libc::ECONNRESET | libc::EPIPE | libc::ETIMEDOUT | libc::EHOSTUNREACH) if step != "connect" => {
            ErrorType::Reset
        }
        Fault::Error(libc::ECONNRESET | libc::EPIPE) => ErrorType::Reset,
        Fault::Error(libc::EHOSTUNREACH) => ErrorType::ConnectUnreachable,
        Fault::Error(libc::ENOMEM | libc::ENOBUFS) => ErrorType::OverloadFd,
        Fault::Error(_) => ErrorType::Internal,
        Fault::Hang => match (step, write) {
            ("connect", _) => ErrorType::TimeoutConnect,
            ("tls", _) => ErrorType::TimeoutTls,
            ("greeting", _) => ErrorType::TimeoutGreeting,
            (_, true) => ErrorType::TimeoutWrite,
            (_, false) => ErrorType::TimeoutCommand,
        },
    };
    match (step, class) {
        // All has been said.
        ("", _) => Passes,
        // LOGOUT never fails a run, and a server that leaves over ID is asked again without.
        ("LOGOUT", _) | ("ID", ErrorType::Eof | ErrorType::Reset) => StepAlone(step, class),
        _ => Fails(step, class),
    }
}
