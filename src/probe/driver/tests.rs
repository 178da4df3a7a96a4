use imaptrace_imap::Condition;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
};

use super::*;
use crate::plan::Timing;

#[tokio::test]
async fn a_command_that_was_cancelled_before_its_first_byte_leaves_the_line_to_logout() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let wire = StampedStream::default();
    wire.attach(stream.into_std().unwrap(), clock::now(), false, Timing::default()).unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    let (cancel, cancelled) = watch::channel(false);
    let mut driver = Driver::new(wire, None, Limits::default(), cancelled);
    let long = Duration::from_secs(30);
    let soon = || Deadline::after(clock::now(), long);
    server.write_all(b"* OK hi\r\n").await.unwrap();
    assert!(driver.greeting(soon()).await.is_ok());
    cancel.send_replace(true);
    let exchange = driver.exchange("t1", &Command::List, soon(), long).await;
    let fault = exchange.result.unwrap_err();
    assert_eq!((fault.class, fault.can_logout, exchange.sent), (ErrorType::Cancelled, true, 0));

    driver.watch.ignore_cancel();
    let answering = tokio::spawn(async move {
        let mut received = [0; 11];
        server.read_exact(&mut received).await.unwrap();
        server.write_all(b"* BYE\r\nt2 OK\r\n").await.unwrap();
        received
    });
    let exchange = driver.exchange("t2", &Command::Logout, soon(), long).await;
    assert_eq!(exchange.result.unwrap().condition, Condition::Ok);
    assert_eq!(&answering.await.unwrap(), b"t2 LOGOUT\r\n");
}
