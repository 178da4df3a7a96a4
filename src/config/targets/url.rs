//! SERVER: a target's `url`, and the argument of the command line (docs/configuration.md).
//!
//! ```text
//! SERVER = [ ("imaps" / "imap") "://" ] [ USER [ ":" PASSWORD ] "@" ] HOST [ ":" PORT ] [ "/" MAILBOX ]
//! ```
//!
//! USER, PASSWORD and MAILBOX are percent-decoded. The last `@` before the path separates user and host, since user names may
//! contain one. No error contains the text, which may have a password. Resolves no name.

use imaptrace_imap::Secret;
use percent_encoding::percent_decode_str;

use crate::plan::{Endpoint, Host, HostPortError, Mailbox, Security, UserName};

/// The scheme of a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// TLS from the first byte.
    Imaps,
    /// STARTTLS, or clear text on request.
    Imap,
}

/// The parts of SERVER.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerUrl {
    /// None for a bare HOST.
    pub scheme: Option<Scheme>,
    /// The user name.
    pub user: Option<UserName>,
    /// The password.
    pub password: Option<Secret>,
    /// Name or address.
    pub host: Host,
    /// The port, if any.
    pub port: Option<u16>,
    /// The mailbox in the path.
    pub mailbox: Option<Mailbox>,
}

/// SERVER cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ServerError {
    /// Not a scheme of IMAP.
    #[error("the scheme is neither imaps:// nor imap://")]
    Scheme,
    /// `imap//…` or `imaps:/…`.
    #[error("its scheme does not end in ://")]
    Slashes,
    /// No host.
    #[error("it has no host: expected imaps://HOST[:PORT][/MAILBOX], imap://… or HOST")]
    NoHost,
    /// A host that is not valid.
    #[error("its host is neither a name nor an IP address (an IPv6 address with a port needs brackets)")]
    Host,
    /// The port may be the start of a password with a `/`.
    #[error(
        "its port is not a number from 1 to 65535; if it is the start of a password, write / as %2F and @ as %40 in it"
    )]
    Slash,
    /// Not 1 to 65535.
    #[error("its port is not a number from 1 to 65535")]
    Port,
    /// A part with a `%` without two hex digits, or not UTF-8 when decoded.
    #[error("its {0} is not percent-encoded UTF-8: write % as %25, @ as %40, / as %2F")]
    Percent(&'static str),
    /// A part with CR, LF or NUL.
    #[error("its {0} holds CR, LF or NUL, which no IMAP command can carry")]
    Control(&'static str),
    /// An empty part.
    #[error("its {0} is empty")]
    Empty(&'static str),
}

// The parts that are percent-decoded.
const USER: &str = "user name";
const PASSWORD: &str = "password";
const MAILBOX: &str = "mailbox";

/// Reads SERVER.
pub fn parse(text: &str) -> Result<ServerUrl, ServerError> {
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("imaps") => (Some(Scheme::Imaps), rest),
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("imap") => (Some(Scheme::Imap), rest),
        // Without a scheme, "://" can only be in user, password or mailbox.
        Some((scheme, _)) if scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {
            return Err(ServerError::Scheme);
        }
        _ if mistyped(text).is_some() => return Err(ServerError::Slashes),
        _ => (None, text),
    };
    let (authority, path) = rest.split_once('/').map_or((rest, None), |(authority, path)| (authority, Some(path)));
    let (login, place) = authority.rsplit_once('@').map_or((None, authority), |(login, place)| (Some(login), place));
    let (user, password) = login.map(parse_login).transpose()?.unwrap_or_default();
    let (host, port) = parse_place(place).map_err(|error| {
        // The path begins at the first slash, so the text before it may be the start of a login.
        let cut_short = path.is_some_and(|path| path.contains('@'));
        if cut_short && error == ServerError::Port { ServerError::Slash } else { error }
    })?;
    let mailbox = |path| Mailbox::new(&decode(path, MAILBOX)?).map_err(|_| ServerError::Control(MAILBOX));
    let mailbox = path.filter(|path| !path.is_empty()).map(mailbox).transpose()?;
    Ok(ServerUrl { scheme, user, password, host, port, mailbox })
}

/// The scheme and the rest of a text in which `:` or a `/` is missing between them.
fn mistyped(text: &str) -> Option<(&'static str, &str)> {
    ["imaps", "imap"].into_iter().find_map(|scheme| {
        let (start, rest) = text.split_at_checked(scheme.len())?;
        let rest = rest.strip_prefix("//").or_else(|| rest.strip_prefix(":/").filter(|rest| !rest.starts_with('/')))?;
        start.eq_ignore_ascii_case(scheme).then_some((scheme, rest))
    })
}

/// The scheme and host that a text with a mistyped scheme means; without user and password, which are not shown.
pub(crate) fn meant(text: &str) -> Option<String> {
    let (scheme, rest) = mistyped(text)?;
    let authority = rest.split('/').next()?;
    let place = authority.rsplit('@').next()?;
    parse_place(place).ok()?;
    Some(format!("{scheme}://{place}"))
}

/// The first `:` separates user and password, as in every URL.
fn parse_login(login: &str) -> Result<(Option<UserName>, Option<Secret>), ServerError> {
    let (user, password) = login.split_once(':').map_or((login, None), |(user, password)| (user, Some(password)));
    let user = UserName::new(&decode(user, USER)?).ok_or(ServerError::Control(USER))?;
    let password = password.map(|password| decode(password, PASSWORD).map(Secret::new)).transpose()?;
    if password.as_ref().is_some_and(|password| password.expose().contains(['\r', '\n', '\0'])) {
        return Err(ServerError::Control(PASSWORD));
    }
    Ok((Some(user), password))
}

fn decode(text: &str, part: &'static str) -> Result<String, ServerError> {
    if text.is_empty() {
        return Err(ServerError::Empty(part));
    }
    let mut after_percent = text.split('%').skip(1);
    let two_digits = |rest: &str| rest.bytes().take(2).filter(u8::is_ascii_hexdigit).count() == 2;
    if !after_percent.all(two_digits) {
        return Err(ServerError::Percent(part));
    }
    let decoded = percent_decode_str(text).decode_utf8().map_err(|_| ServerError::Percent(part))?;
    Ok(decoded.into_owned())
}

/// As [`Host::with_port`].
pub(crate) fn parse_place(place: &str) -> Result<(Host, Option<u16>), ServerError> {
    Host::with_port(place).map_err(|error| match error {
        HostPortError::NoHost => ServerError::NoHost,
        HostPortError::Host => ServerError::Host,
        HostPortError::Port => ServerError::Port,
    })
}

/// The security of the connection: `asked` if it goes with the scheme, else the scheme's default. The error is the reason.
pub fn security(scheme: Option<Scheme>, asked: Option<Security>) -> Result<Security, String> {
    match (scheme, asked) {
        (Some(Scheme::Imaps), None | Some(Security::Tls)) | (None, None) => Ok(Security::Tls),
        (Some(Scheme::Imaps), Some(other)) => {
            Err(format!("imaps:// goes with security \"tls\" alone, not with {:?}", other.as_str()))
        }
        (Some(Scheme::Imap), None) => Ok(Security::StartTls),
        (Some(Scheme::Imap), Some(Security::Tls)) => {
            Err("imap:// goes with security \"starttls\" or \"none\", not with \"tls\"".to_owned())
        }
        (Some(Scheme::Imap) | None, Some(asked)) => Ok(asked),
    }
}

/// Security and endpoint; the default port is that of the security. The error is as that of [`security`].
pub fn resolve(url: &ServerUrl, asked: Option<Security>) -> Result<(Security, Endpoint), String> {
    let security = security(url.scheme, asked)?;
    let port = url.port.unwrap_or_else(|| Endpoint::default_port(security));
    Ok((security, Endpoint { host: url.host.clone(), port }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(url: &ServerUrl) -> (Option<&str>, Option<&str>) {
        (url.user.as_ref().map(UserName::expose), url.password.as_ref().map(Secret::expose))
    }

    /// `Ok("tls mail.example:993")` or the error's words.
    fn resolved(text: &str, asked: Option<Security>) -> Result<String, String> {
        let url = parse(text).map_err(|error| error.to_string())?;
        let (security, endpoint) = resolve(&url, asked)?;
        Ok(format!("{} {endpoint}", security.as_str()))
    }

    #[test]
    fn scheme_and_security_give_port_and_only_some_pairs_go_together() {
        use Security::{None as Clear, StartTls, Tls};
        let good = [
            ("imaps://mail.example", None, "tls mail.example:993"),
            ("imaps://mail.example", Some(Tls), "tls mail.example:993"),
            ("IMAPS://mail.example:1993", None, "tls mail.example:1993"),
            ("imap://mail.example", None, "starttls mail.example:143"),
            ("imap://127.0.0.1", None, "starttls 127.0.0.1:143"),
            ("imap://mail.example", Some(StartTls), "starttls mail.example:143"),
            ("imap://mail.example:1143", Some(Clear), "none mail.example:1143"),
            ("mail.example", None, "tls mail.example:993"),
            ("mail.example", Some(Tls), "tls mail.example:993"),
            ("mail.example", Some(StartTls), "starttls mail.example:143"),
            ("mail.example", Some(Clear), "none mail.example:143"),
            ("mail.example:1143", Some(Clear), "none mail.example:1143"),
        ];
        for (text, asked, expected) in good {
            assert_eq!(resolved(text, asked).as_deref(), Ok(expected), "{text} {asked:?}");
        }
        for (text, asked) in
            [("imaps://mail.example", StartTls), ("imaps://mail.example", Clear), ("imap://mail.example", Tls)]
        {
            assert!(resolved(text, Some(asked)).is_err(), "{text} {asked:?}");
        }
    }

    #[test]
    fn the_last_at_sign_before_the_path_parts_user_and_host() {
        let url = parse("imaps://bob@example.org@mail.example/Shared/amy@example.org").unwrap();
        assert_eq!(login(&url), (Some("bob@example.org"), None));
        assert_eq!(url.host, Host::Name("mail.example".into()));
        assert_eq!(url.mailbox.unwrap().as_str(), "Shared/amy@example.org");
        let bare = parse("bob@example.org@mail.example").unwrap();
        assert_eq!((login(&bare), bare.scheme), ((Some("bob@example.org"), None), None));
    }

    #[test]
    fn user_password_and_mailbox_are_percent_decoded() {
        let url = parse("imap://b%C3%B6b%40example:p%40ss%2Fw%25:d@mail.example/Entw%C3%BCrfe%20alt").unwrap();
        assert_eq!(login(&url), (Some("böb@example"), Some("p@ss/w%:d")));
        assert_eq!(url.mailbox.unwrap().as_str(), "Entwürfe alt");
        assert_eq!(parse("mail.example/inbox").unwrap().mailbox.unwrap().as_str(), "INBOX");
        assert_eq!(parse("imaps://mail.example/").unwrap().mailbox, None);
    }

    #[test]
    fn a_password_with_a_slash_in_it_is_not_blamed_on_the_port_alone() {
        for text in ["imaps://u:p/w@mail.example", "imaps://u@example.org:p/w@mail.example", "u:p/w@mail.example"] {
            assert_eq!(parse(text).unwrap_err(), ServerError::Slash, "{text}");
        }
        assert_eq!(parse("imaps://u:p@mail.example:x/INBOX").unwrap_err(), ServerError::Port);
    }

    #[test]
    fn ipv6_stands_in_brackets_and_may_stand_alone() {
        let address = Host::parse("2001:db8::7").unwrap();
        for (text, port) in [
            ("imaps://[2001:db8::7]", None),
            ("imaps://u@[2001:db8::7]:1993/INBOX", Some(1993)),
            ("2001:db8::7", None),
            ("[2001:db8::7]:143", Some(143)),
        ] {
            let url = parse(text).unwrap();
            assert_eq!((url.host, url.port), (address.clone(), port), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_refused_and_never_repeated() {
        use ServerError as E;
        for (text, expected) in [
            ("", E::NoHost),
            ("imaps://", E::NoHost),
            ("imaps:///INBOX", E::NoHost),
            ("imaps://u@:993", E::NoHost),
            ("https://mail.example", E::Scheme),
            ("pop3s://planted:planted@mail.example", E::Scheme),
            ("mail.example:0", E::Port),
            ("mail.example:65536", E::Port),
            ("mail.example:+143", E::Port),
            ("mail.example:", E::Port),
            ("imaps://u:planted/x@mail.example", E::Slash),
            ("mail example", E::Host),
            ("2001:db8::7:", E::Port),
            ("[mail.example]", E::Host),
            ("[::1]x", E::Host),
            ("imaps://u:planted%zz@mail.example", E::Percent(PASSWORD)),
            ("imaps://u:planted%@mail.example", E::Percent(PASSWORD)),
            ("imaps://%FF@mail.example", E::Percent(USER)),
            ("mail.example/%FF", E::Percent(MAILBOX)),
            ("mail.example/a%0D%0Ab", E::Control(MAILBOX)),
            ("mail.example/a%00", E::Control(MAILBOX)),
            ("u%0Ax@mail.example", E::Control(USER)),
            ("u:planted%0Ax@mail.example", E::Control(PASSWORD)),
            ("imaps://@mail.example", E::Empty(USER)),
            ("imaps://u:@mail.example", E::Empty(PASSWORD)),
        ] {
            let found = parse(text);
            assert_eq!(found.as_ref().err(), Some(&expected), "{text}");
            assert!(!expected.to_string().contains("planted"));
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic_and_every_host_it_finds_is_one(text in ".{0,60}") {
            if let Ok(url) = parse(&text) {
                proptest::prop_assert!(Host::parse(&url.host.to_string()).is_ok());
            }
        }
    }
}
