//! The content of the messages. Hosts and domains are reserved ones (RFC 2606, RFC 6761), addresses those for documentation
//! (RFC 5737), people invented.

use std::sync::LazyLock;

/// Name, local part.
pub(super) const PEOPLE: &[(&str, &str)] = &[
    ("Ada Winter", "ada.winter"),
    ("Zoë Müller", "zoe.mueller"),
    ("Samir Haddad", "s.haddad"),
    ("Łukasz Nowak", "lukasz"),
    ("Grace Okafor", "gokafor"),
    ("José Martínez", "jose.martinez"),
    ("Ingrid Sørensen", "ingrid"),
    ("山田 花子", "hanako.yamada"),
    ("Tom Baker", "tom"),
    ("Priya Nair", "priya.nair"),
    ("Service Desk", "service-desk"),
    ("Monthly Digest", "digest"),
    ("Olga Petrova", "o.petrova"),
    ("Benoît Lefèvre", "benoit.lefevre"),
    ("Build Robot", "builds"),
    ("Mei Chen", "mei.chen"),
];

pub(super) const DOMAINS: &[&str] =
    &["example.org", "example.com", "example.net", "mail.example", "office.example.com", "lists.example.org"];

/// The owner of the mailbox.
pub(super) const OWNER: &str = "canary@example.org";

pub(super) const SUBJECTS: &[&str] = &[
    "Minutes of Tuesday's meeting",
    "Invoice for your last order",
    "Your weekly summary",
    "Question about the new storage volume",
    "Entwürfe für die Präsentation",
    "Travel plans for the conference in Kraków",
    "Build finished with two warnings",
    "Lunch on Friday?",
    "Réunion déplacée à jeudi",
    "Please review the attached draft before the end of the week, comments on section three above all",
    "会議の資料について",
    "Reminder: your certificate expires soon",
    "Photos from the summer party 🎉",
    "Change of address",
    "Maintenance window next Sunday morning",
    "Offer for the replacement of both load balancers, second version with the prices that we talked about",
];

/// The words of sentences.
pub(super) static WORDS: LazyLock<Vec<&str>> = LazyLock::new(|| {
    "the a we you it that this with from about before after because when report meeting server mailbox \
     customer project budget table answer question week Monday evening draft version change number office \
     train garden window coffee will can should could have send look write need open close move keep find \
     small large quick slow green new old next last open clear ready late early and or but so then again soon \
     today tomorrow here there also only perhaps café Grüße naïve très señor smörgåsbord"
        .split(' ')
        .collect()
});

pub(super) const AGENTS: &[&str] = &[
    "User-Agent: Example Mail 128.5.0 (X11; Linux x86_64)",
    "X-Mailer: Sample Desktop 16.0",
    "X-Mailer: Phone Mail (21F90)",
    "User-Agent: Webmail Example/1.6.7",
];

/// File name without number and extension, extension, media type, first bytes.
pub(super) const FILES: &[(&str, &str, &str, &[u8])] = &[
    ("Report", "pdf", "application/pdf", b"%PDF-1.7\n"),
    ("photo", "jpg", "image/jpeg", b"\xff\xd8\xff\xe0\x00\x10JFIF\x00"),
    ("Übersicht", "xlsx", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet", b"PK\x03\x04"),
    ("archive", "zip", "application/zip", b"PK\x03\x04"),
];
