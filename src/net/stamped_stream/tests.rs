use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::{wire_event::KEPT, *};

async fn pair() -> (StampedStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap().into_std().unwrap();
    let (wire, stamped) = (StampedStream::default(), linux::stamp(ours.as_fd()));
    wire.attach(ours, clock::now(), stamped, Timing::default()).unwrap();
    (wire, listener.accept().await.unwrap().0)
}

#[tokio::test]
async fn bytes_are_counted_and_the_first_write_since_the_mark_is_stamped() {
    let (mut wire, mut server) = pair().await;
    assert_eq!(wire.first_write(), None);
    wire.write_all(b"abc").await.unwrap();
    let first = wire.first_write().unwrap();
    wire.write_all(b"d").await.unwrap();
    assert_eq!(wire.first_write(), Some(first));
    wire.begin_step();
    wire.write_all(b"e").await.unwrap();
    assert!(wire.first_write().unwrap() > first);
    server.write_all(b"xyz").await.unwrap();
    wire.read_exact(&mut [0; 3]).await.unwrap();
    assert_eq!(wire.counts(), ByteCounts { sent: 5, received: 3 });
    assert!(wire.last_arrival().unwrap().1 > first);
}

/// Bytes that the kernel stamped so long ago.
fn stamped(bytes: usize, ago: Duration) -> StampedBytes {
    let now = clock::wall().duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap();
    StampedBytes { bytes, stamp: now.checked_sub(ago) }
}

#[tokio::test]
async fn the_time_that_bytes_wait_unread_is_kept_with_their_arrival() {
    let (wire, _server) = pair().await;
    let mut inner = wire.inner();
    let Some(socket) = &mut inner.socket else { unreachable!() };
    socket.earliest = clock::now().checked_sub(Duration::from_secs(60)).unwrap();
    socket.kernel = Some(Kernel::new());
    let long = Duration::from_millis(30);
    inner.received([stamped(1, 2 * long), stamped(3_000, long)], None);
    inner.received([stamped(80, Duration::ZERO), StampedBytes::default()], None);
    let [first, rest, prompt] = inner.events[..] else { panic!("{:?}", inner.events) };
    assert!(first.unread_for() >= 2 * long && first.is_late(), "{first:?}");
    assert!(rest.unread_for() >= long && rest.unread_for() < 2 * long && rest.is_late(), "{rest:?}");
    assert!(!prompt.merged && !prompt.lost && prompt.unread_for() < long, "{prompt:?}");
    // Without a stamp of the kernel it is not known for how long.
    inner.received([StampedBytes { bytes: 5, stamp: None }, StampedBytes::default()], None);
    assert_eq!(inner.events.last().unwrap().unread_for(), Duration::ZERO);
}

#[tokio::test]
async fn a_loss_is_noted_on_what_was_waited_for_meanwhile_and_not_again_on_what_follows() {
    let (wire, _server) = pair().await;
    let mut inner = wire.inner();
    let now = clock::now();
    let arrival = |since: u32| WireEvent::new(now.checked_sub(since * LATE).unwrap(), 9, false);
    // The kernel of this connection has lost nothing; as if one had been lost before.
    inner.events.push(arrival(50));
    inner.lost = 1;
    let piece = StampedBytes { bytes: 9, stamp: None };
    inner.received([piece, StampedBytes::default()], None);
    inner.events.push(arrival(20));
    inner.received([piece, StampedBytes::default()], None);
    let lost: Vec<_> = inner.events.iter().map(|event| event.lost).collect();
    assert_eq!(lost, [false, true, false, false]);
}

#[test]
fn merged_events_keep_the_flags_of_each() {
    let now = clock::now();
    let mut events = vec![WireEvent { lost: true, ..WireEvent::new(now, 10, false) }];
    keep(&mut events, WireEvent { unread_us: 7, ..WireEvent::new(now, 5, false) });
    assert_eq!(events, [WireEvent { bytes: 15, unread_us: 7, lost: true, ..WireEvent::new(now, 0, false) }]);
    while events.len() < KEPT {
        let at = now + LATE * u32::try_from(events.len()).unwrap();
        keep(&mut events, WireEvent::new(at, 1, false));
    }
    assert!(events.iter().all(|event| !event.merged));
    keep(&mut events, WireEvent::new(now + Duration::from_secs(9), 1, false));
    let last = events.last().unwrap();
    assert!(events.len() == KEPT && last.merged && last.at == now + Duration::from_secs(9), "{last:?}");
}

#[tokio::test]
async fn under_tls_nothing_is_lost_between_small_reads() {
    let (mut wire, mut server) = pair().await;
    wire.begin_tls();
    let record = [&[23u8, 3, 3, 0x10, 0][..], &[7; 4096]].concat();
    server.write_all(&record).await.unwrap();
    let mut got = vec![0; record.len()];
    wire.read_exact(&mut got[..5]).await.unwrap();
    wire.read_exact(&mut got[5..]).await.unwrap();
    assert_eq!(got, record);
    assert_eq!(wire.last_record(), Some(LastRecord { kind: 23, length: 4096, whole: true }));
}

#[tokio::test]
async fn records_of_tls_itself_are_not_the_first_arrival() {
    let (mut wire, mut server) = pair().await;
    wire.begin_tls();
    let record = [23u8, 3, 3, 0, 2, 7, 7];
    let mut got = [0; 7];
    wire.begin_read();
    server.write_all(&record).await.unwrap();
    wire.read_exact(&mut got).await.unwrap();
    let (ticket, _) = wire.last_arrival().unwrap();
    wire.ignore_tls_records();
    server.write_all(&record[..4]).await.unwrap();
    wire.read_exact(&mut got[..4]).await.unwrap();
    let (first, _) = wire.last_arrival().unwrap();
    assert!(first > ticket);
    // Half a record is the beginning of something that may be an answer.
    wire.ignore_tls_records();
    server.write_all(&record[4..]).await.unwrap();
    wire.read_exact(&mut got[4..]).await.unwrap();
    let (still, last) = wire.last_arrival().unwrap();
    assert!(still == first && last > first, "{still:?} {last:?} {first:?}");
}

#[tokio::test]
async fn a_server_that_reads_nothing_is_waited_for_and_not_polled() {
    let (mut wire, mut server) = pair().await;
    let much = vec![7; 48 << 20];
    let mut polls = 0;
    {
        let mut writing = std::pin::pin!(wire.write_all(&much));
        let mut buffer = vec![0; 4 << 20];
        let mut got = 0;
        // It reads some now and then: segments that were held back leave, and their stamps come late.
        for _ in 0..5 {
            let counted = std::future::poll_fn(|context| {
                polls += 1;
                writing.as_mut().poll(context)
            });
            assert!(tokio::time::timeout(Duration::from_millis(60), counted).await.is_err());
            server.read_exact(&mut buffer).await.unwrap();
            got += buffer.len();
        }
        assert!(polls < 200, "polled {polls} times");
        // Once it reads, all of it goes.
        let reading = async {
            while got < much.len() {
                got += server.read(&mut buffer).await.unwrap();
            }
        };
        let (written, ()) = tokio::join!(writing, reading);
        written.unwrap();
    }
    assert_eq!(wire.counts().sent, 48 << 20);
}
