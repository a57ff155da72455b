//! What must not be shown: knows names and URLs, never files or layers.

/// What stands where a secret would.
pub(super) const MASK: &str = "***";

/// Parts of a name that say: this is a secret.
const TELLING: [&str; 5] = ["password", "passwd", "secret", "token", "key"];

/// Whether a key's name says that its value is a secret, as in `api_key`, `apiToken` or `door_pin`.
pub(super) fn is_secret_name(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    TELLING.iter().any(|part| lower.contains(part)) || words(name).iter().any(|word| word == "pin")
}

/// The lower-case words of `snake_case`, `kebab-case` and `camelCase`; digits end a word. `pin` is looked for
/// among them, because it is also a part of `shopping` and `ping`.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut previous_lower = false;
    for letter in name.chars() {
        let begins = !letter.is_alphabetic() || (letter.is_uppercase() && previous_lower);
        if begins {
            words.push(String::new());
        }
        if let Some(word) = words.last_mut()
            && letter.is_alphabetic()
        {
            word.extend(letter.to_lowercase());
        }
        previous_lower = letter.is_lowercase();
    }
    words
}

/// The text with the password of a URL in it masked: `mqtt://user:***@host`.
pub(super) fn mask_url(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.into() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    // A password with a raw `/` in it makes a URL that is wrong, but it is a password all the same.
    let end = if rest[..end].contains('@') { end } else { rest.len() };
    let Some((account, host)) = rest[..end].rsplit_once('@') else { return text.into() };
    let Some((user, _)) = account.split_once(':') else { return text.into() };
    format!("{scheme}://{user}:{MASK}@{host}{}", &rest[end..])
}

/// A line of a configuration file as an error may show it: nothing of it after a telling name.
pub(super) fn mask_line(line: &str) -> String {
    let secret = line.match_indices('=').map(|(at, _)| &line[..at]).find(|before| is_secret_name(before));
    secret.map_or_else(|| mask_url(line), |before| format!("{before}= {MASK}"))
}

#[cfg(test)]
mod tests {
    use super::{is_secret_name, mask_line, mask_url};

    #[test]
    fn names_that_tell() {
        for name in ["password", "API_KEY", "apiToken", "client_secret", "pin", "door-pin", "userPin", "pin2"]
        {
            assert!(is_secret_name(name), "{name}");
        }
        for name in ["city", "ping_interval", "shopping_list", "username", "spin"] {
            assert!(!is_secret_name(name), "{name}");
        }
    }

    #[test]
    fn passwords_in_urls() {
        let check = |text: &str, expect: &str| assert_eq!(mask_url(text), expect);
        check("mqtt://nas", "mqtt://nas");
        check("mqtt://ada@nas:1883", "mqtt://ada@nas:1883");
        check("mqtt://ada:pw@nas:1883", "mqtt://ada:***@nas:1883");
        check("mqtt://ada:p@w:x@nas", "mqtt://ada:***@nas");
        check("mqtt://ada:p/w@nas", "mqtt://ada:***@nas");
        check("http://ada:pw@nas/a?to=b@c", "http://ada:***@nas/a?to=b@c");
        check("http://nas/a:b", "http://nas/a:b");
        check("plain: text @ all", "plain: text @ all");
    }

    #[test]
    fn lines() {
        assert_eq!(mask_line("password = \"abc"), "password = ***");
        assert_eq!(mask_line("a = { token = \"abc"), "a = { token = ***");
        assert_eq!(mask_line("url = \"mqtt://a:b@c"), "url = \"mqtt://a:***@c");
        assert_eq!(mask_line("city = \"Paris"), "city = \"Paris");
    }
}
