//! Opens a mailbox again and again with async-imap, as a program would that wants nothing but to have it open.
//!
//!     async-imap-loop ADDRESS USER PASSWORD RUNS [CA-FILE]
//!
//! ID, LOGIN, LIST, SELECT INBOX, FETCH of the newest 20, LOGOUT, on one thread; with a CA file over TLS, whose connector is
//! made once for all runs. No NAMESPACE: its parser takes the answer for a fault. It looks at each answer and keeps none.
//! Any answer but OK ends it.

use std::{env, error::Error, fs, net::SocketAddr};

use async_imap::Client;
use futures_util::TryStreamExt as _;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

/// What imaptrace asks for.
const ITEMS: &str = "(UID FLAGS INTERNALDATE RFC822.SIZE BODY.PEEK[HEADER.FIELDS (DATE FROM TO CC SUBJECT MESSAGE-ID \
                     REFERENCES IN-REPLY-TO CONTENT-TYPE)])";
const NEWEST: u32 = 20;

type Outcome = Result<(), Box<dyn Error>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [address, user, password, runs, ca @ ..] = arguments.as_slice() else {
        return Err("usage: async-imap-loop ADDRESS USER PASSWORD RUNS [CA-FILE]".into());
    };
    let address: SocketAddr = address.parse()?;
    let connector = match ca {
        [file] => {
            let root = native_tls::Certificate::from_pem(&fs::read(file)?)?;
            Some(native_tls::TlsConnector::builder().add_root_certificate(root).build()?)
        }
        _ => None,
    }
    .map(tokio_native_tls::TlsConnector::from);
    for _ in 0..runs.parse::<u32>()? {
        let tcp = TcpStream::connect(address).await?;
        match &connector {
            None => open(tcp, user, password).await?,
            Some(tls) => open(tls.connect(&address.ip().to_string(), tcp).await?, user, password).await?,
        }
    }
    Ok(())
}

async fn open<S: AsyncRead + AsyncWrite + Unpin + Send + std::fmt::Debug>(
    stream: S,
    user: &str,
    password: &str,
) -> Outcome {
    let mut client = Client::new(stream);
    client.read_response().await?.ok_or("no greeting")?;
    client.run_command_and_check_ok("ID (\"name\" \"async-imap\")", None).await?;
    let mut session = client.login(user, password).await.map_err(|(error, _)| error)?;
    session.list(Some(""), Some("*")).await?.try_for_each(|_| async { Ok(()) }).await?;
    let last = session.select("INBOX").await?.exists;
    let window = format!("{}:{last}", (last + 1).saturating_sub(NEWEST).max(1));
    let mut rows = 0;
    session
        .fetch(window, ITEMS)
        .await?
        .try_for_each(|_| {
            rows += 1;
            async { Ok(()) }
        })
        .await?;
    if rows != last.min(NEWEST) {
        return Err(format!("{rows} messages of {last}").into());
    }
    session.logout().await?;
    Ok(())
}
