//! `tap` over an in-memory connection: what it shows, when it ends, and what it does not wait for.

use super::*;

fn metric(line: &str) -> Tapped {
    Tapped { line: line.as_bytes().to_vec(), node: "h:1".into() }
}

#[tokio::test(start_paused = true)]
async fn a_tap_shows_as_many_as_asked_and_later_commands_wait_for_it() {
    let (proxy, wire) = (Proxy::default(), Wire::new());
    let (sender, receiver) = mpsc::channel(10);
    proxy.taps.replace(Some(receiver));
    serve_while(&proxy, true, &wire, async {
        wire.send(b"tap a. 3\nping\n");
        sender.send(metric("a.x:1|c")).await.unwrap();
        assert_eq!(wire.replies_within(1).await, "a.x:1|c\th:1\n");
        wire.send(b"health\n");
        assert_eq!(wire.replies_within(5_000).await, "");
        wire.half_close();
        assert_eq!(wire.replies_within(900).await, "");
        for value in 2..5 {
            sender.send(metric(&format!("a.\x1b:{value}|c"))).await.unwrap();
        }
        let expected = "a.\\x1b:2|c\th:1\na.\\x1b:3|c\th:1\npong\nhealth: up\n";
        assert_eq!(wire.replies_within(1).await, expected);
        assert!(sender.is_closed(), "the tap goes on unseen");
    })
    .await;
    assert_eq!(*proxy.tapped.borrow(), [(b"a.".to_vec(), 3)]);
}

#[tokio::test(start_paused = true)]
async fn a_tap_above_the_limit_is_refused_and_the_connection_continues() {
    let (proxy, wire) = (Proxy::default(), Wire::new());
    serve_while(&proxy, true, &wire, async {
        wire.send(b"tap\nping\n");
        wire.half_close();
        assert_eq!(wire.replies_within(1).await, "error: too many taps (8): wait until one ends\npong\n");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_tap_without_metrics_ends_by_itself() {
    let (proxy, wire) = (Proxy::default(), Wire::new());
    let (sender, receiver) = mpsc::channel(10);
    proxy.taps.replace(Some(receiver));
    let lasted = serve_while(&proxy, true, &wire, async {
        wire.send(b"tap 2\n");
        sender.send(metric("a:1|c")).await.unwrap();
        assert_eq!(wire.replies_within(29_990).await, "a:1|c\th:1\n");
        assert_eq!(wire.replies_within(20).await, "1 of 2 metrics in 30 s\n");
        assert!(sender.is_closed());
        wire.half_close();
    });
    assert!(is_about(lasted.await, 30_010));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_ends_its_tap() {
    let (proxy, wire) = (Proxy::default(), Wire::new());
    let (sender, receiver) = mpsc::channel(10);
    proxy.taps.replace(Some(receiver));
    let lasted = serve_while(&proxy, true, &wire, async {
        wire.send(b"tap 1000\n");
        sleep(Duration::from_secs(1)).await;
        wire.disappear();
    });
    assert!(is_about(lasted.await, 2_000));
    assert!(sender.is_closed());
}

#[tokio::test(start_paused = true)]
async fn a_tap_ends_when_its_client_disconnects_even_without_metrics() {
    for (is_gone, lasts_ms) in [(true, 6_000), (false, 30_000)] {
        let (proxy, wire) = (Proxy::default(), Wire::new());
        let (sender, receiver) = mpsc::channel(10);
        proxy.taps.replace(Some(receiver));
        let lasted = serve_while(&proxy, true, &wire, async {
            wire.send(b"tap 1000\n");
            // A client that only closed its sending side is still there, and receives an empty line now and then.
            wire.half_close();
            assert_eq!(wire.replies_within(5_500).await, "\n\n\n\n\n");
            if is_gone {
                wire.disappear();
            }
        });
        assert!(is_about(lasted.await, lasts_ms), "gone: {is_gone}");
        assert!(sender.is_closed());
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_sent_ahead_during_a_tap_is_bounded() {
    let (proxy, wire) = (Proxy::default(), Wire::new());
    let (sender, receiver) = mpsc::channel(10);
    proxy.taps.replace(Some(receiver));
    let lasted = serve_while(&proxy, true, &wire, async {
        wire.send(b"tap 1\n");
        wire.send(&vec![b'\n'; 1 << 20]);
        sleep(Duration::from_millis(900)).await;
        assert!(wire.sent.borrow().len() > (1 << 20) - 2 * AHEAD_BYTES_MAX);
        drop(sender);
        assert_eq!(wire.replies_within(1).await, "0 of 1 metrics in 0 s\n");
        assert!(wire.sent.borrow().is_empty());
        wire.half_close();
    });
    assert!(is_about(lasted.await, 901));
}
