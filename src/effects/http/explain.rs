//! Turns what the HTTP client reports into a sentence for a person. Never shows a URL, it may hold a secret.

use std::{error::Error, io};

use super::hop::shortened;

/// Says what went wrong between us and a host.
pub(super) fn explain(place: &str, error: &reqwest::Error) -> String {
    if let Some(error) = find::<rustls::Error>(error) {
        return explain_tls(place, error);
    }
    let cause = shortened(&root(error).to_string());
    if error.is_connect() {
        let refused = find::<io::Error>(error).is_some_and(|e| e.kind() == io::ErrorKind::ConnectionRefused);
        if refused {
            return format!(
                "`{place}` refuses connections: is the port right, and does something listen there?"
            );
        }
        return format!("`{place}` cannot be reached: {cause}");
    }
    if error.is_body() || error.is_decode() {
        return format!("the answer of `{place}` broke off: {cause}");
    }
    format!("`{place}` gave no proper answer: {cause}")
}

fn explain_tls(place: &str, error: &rustls::Error) -> String {
    use rustls::{Error, InvalidMessage};
    match error {
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            format!("`{place}` does not speak TLS on this port: is `http://` meant?")
        }
        Error::InvalidCertificate(reason) => {
            format!("the certificate of `{place}` is not valid: {}", explain_certificate(reason))
        }
        other => format!("no secure connection to `{place}`: {}", shortened(&other.to_string())),
    }
}

fn explain_certificate(error: &rustls::CertificateError) -> String {
    use rustls::CertificateError as Bad;
    match error {
        Bad::UnknownIssuer => "nobody whom this machine trusts has signed it".into(),
        Bad::Expired | Bad::ExpiredContext { .. } => "it has expired".into(),
        Bad::NotValidYet | Bad::NotValidYetContext { .. } => {
            "it is not valid yet; is this machine's clock right?".into()
        }
        Bad::NotValidForName | Bad::NotValidForNameContext { .. } => "it is for another name".into(),
        other => shortened(&other.to_string()),
    }
}

/// Searches the chain of causes, also inside an `io::Error`, whose `source` skips what it wraps.
fn find<'error, T: Error + 'static>(error: &'error (dyn Error + 'static)) -> Option<&'error T> {
    let mut current = Some(error);
    while let Some(error) = current {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(found) = wrapped.and_then(|wrapped| find::<T>(wrapped)) {
            return Some(found);
        }
        current = error.source();
    }
    None
}

fn root<'error>(error: &'error (dyn Error + 'static)) -> &'error (dyn Error + 'static) {
    let mut root = error;
    while let Some(source) = root.source() {
        root = source;
    }
    root
}
