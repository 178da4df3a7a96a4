//! A real Alertmanager with the repository's own file, and what it sends: a receiver of webhooks that keeps each notification.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use serde_json::Value;

use super::{
    backends::{Process, command, get, loopback},
    event_posts::receive,
    program::{cache, free_port},
};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// What an Alertmanager has sent, oldest first.
#[derive(Clone, Default)]
pub struct Notifications(Arc<Mutex<Vec<Value>>>);

impl Notifications {
    /// All that fire; what is over is notified too.
    pub fn firing(&self) -> Vec<Value> {
        self.0.lock().unwrap().iter().filter(|each| each["status"] == "firing").cloned().collect()
    }
}

/// An Alertmanager that is ready. It ends when this is dropped.
pub struct Alertmanager {
    pub port: u16,
    pub notifications: Notifications,
    _process: Process,
    _directory: tempfile::TempDir,
}

impl Alertmanager {
    /// With the shipped file and these texts in place of others; `teams`: without the `#~` at the beginning of some lines, so
    /// that what has the label `team = "mail"` goes to a receiver of its own. All receivers are webhooks of ours.
    pub fn start(replaced: &[(&str, &str)], teams: bool) -> Self {
        let notifications = Notifications::default();
        let webhook = TcpListener::bind("127.0.0.1:0").unwrap();
        let (taken, hooks) = (notifications.clone(), webhook.try_clone().unwrap());
        thread::spawn(move || {
            for stream in hooks.incoming() {
                let taken = taken.clone();
                // Alertmanager keeps its connection open until it ends.
                thread::spawn(move || {
                    receive(stream.unwrap(), |body| {
                        taken.0.lock().unwrap().push(serde_json::from_slice(body)?);
                        Ok(())
                    })
                });
            }
        });
        let mut file = std::fs::read_to_string(format!("{ROOT}/deploy/alertmanager/alertmanager.yml")).unwrap();
        if teams {
            let lines: Vec<_> = file.lines().map(|line| line.strip_prefix("#~").unwrap_or(line)).collect();
            file = lines.join("\n") + "\n";
            assert!(file.contains("\n  - name: mail\n"), "no receiver of a team");
        }
        let hook = format!("http://{}/", webhook.local_addr().unwrap());
        let receivers = [("    # webhook_configs", "    webhook_configs"), ("http://127.0.0.1:9095/", hook.as_str())];
        for (there, here) in replaced.iter().copied().chain(receivers) {
            assert!(file.contains(there), "alertmanager.yml does not have {there}");
            file = file.replace(there, here);
        }
        let directory = tempfile::Builder::new().prefix("alertmanager-").tempdir().unwrap();
        std::fs::write(directory.path().join("alertmanager.yml"), file).unwrap();
        // Where scripts/backends.sh has it look for them.
        for template in std::fs::read_dir(cache().join("bin/alertmanager-templates")).unwrap() {
            let template = template.unwrap().path();
            std::fs::copy(&template, directory.path().join(template.file_name().unwrap())).unwrap();
        }
        let port = free_port();
        let mut alertmanager = command("alertmanager");
        alertmanager.args([
            "--config.file=alertmanager.yml",
            "--storage.path=data",
            "--cluster.listen-address=",
            &format!("--web.listen-address={}", loopback(port)),
        ]);
        let mut process = Process::start("alertmanager", alertmanager, directory.path());
        process.wait_ready(port, "/-/ready");
        Self { port, notifications, _process: process, _directory: directory }
    }
}

impl Alertmanager {
    /// How many alerts of each name are held back now, since another one says more.
    pub fn inhibited(&self) -> BTreeMap<String, usize> {
        let (status, body) = get(self.port, "/api/v2/alerts?inhibited=true&active=false&silenced=false").unwrap();
        assert_eq!(status, 200, "{body}");
        let alerts: Vec<Value> = serde_json::from_str(&body).unwrap();
        let mut names = BTreeMap::new();
        for alert in alerts {
            *names.entry(alert["labels"]["alertname"].as_str().unwrap().to_owned()).or_default() += 1;
        }
        names
    }
}

/// A page of metrics in place of the Collector's: what was set last.
pub struct Exposition {
    pub port: u16,
    page: Arc<Mutex<String>>,
}

impl Exposition {
    pub fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let this = Self { port: listener.local_addr().unwrap().port(), page: Arc::default() };
        let page = Arc::clone(&this.page);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let text = page.lock().unwrap().clone();
                // A scrape that was given up is repeated.
                drop(answer(stream.unwrap(), &text));
            }
        });
        this
    }

    /// Series in the text format, one a line.
    pub fn set(&self, series: &[String]) {
        *self.page.lock().unwrap() = series.join("\n") + "\n# EOF\n";
    }
}

fn answer(mut stream: TcpStream, page: &str) -> std::io::Result<()> {
    let mut request = Vec::new();
    let mut piece = [0; 1024];
    while !request.ends_with(b"\r\n\r\n") {
        let length = stream.read(&mut piece)?;
        if length == 0 {
            return Ok(());
        }
        request.extend_from_slice(&piece[..length]);
    }
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: application/openmetrics-text; version=1.0.0\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{page}",
        page.len()
    )
}
