//! What `auth.hook` may be.

use std::time::Duration;

use reqwest::header::HeaderName;
use url::Url;

use super::{ConfigError, HookConfig};
use crate::auth::HookOptions;

/// Browsers and proxies send these with every request, whoever caused it, so none tells who a client is.
const NO_CREDENTIALS: [&str; 19] = [
    "accept",
    "accept-encoding",
    "accept-language",
    "cache-control",
    "connection",
    "content-length",
    "content-type",
    "forwarded",
    "host",
    "last-event-id",
    "origin",
    "pragma",
    "referer",
    "traceparent",
    "upgrade",
    "user-agent",
    "via",
    "x-forwarded-for",
    "x-real-ip",
];

impl HookConfig {
    /// What the hook needs, where there is one.
    pub fn options(&self) -> Option<HookOptions> {
        Some(HookOptions {
            url: self.url.clone()?,
            headers: self.headers.0.clone(),
            cookies: self.cookies.0.clone(),
            secret: self.secret.clone(),
            timeout: self.timeout.0,
            concurrency: self.concurrency,
            cache: self.cache.0,
            stale: self.stale.0,
            lifetime: self.lifetime.0,
        })
    }

    /// # Errors
    /// Names the first key that makes no sense.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        self.check_presence()?;
        if let Some(url) = &self.url {
            check_url(url).map_err(|problem| ConfigError::value("auth.hook.url", problem))?;
        }
        for name in &self.headers.0 {
            check_header(name).map_err(|problem| named("auth.hook.headers", name, problem))?;
        }
        for name in &self.cookies.0 {
            check_cookie(name).map_err(|problem| named("auth.hook.cookies", name, problem))?;
        }
        self.check_numbers()
    }

    fn check_presence(&self) -> Result<(), ConfigError> {
        let has_names = !self.headers.0.is_empty() || !self.cookies.0.is_empty();
        if self.url.is_none() && (has_names || self.secret.is_some()) {
            return Err(ConfigError::value(
                "auth.hook.url",
                "missing: the other keys of auth.hook need it",
            ));
        }
        if self.url.is_some() && !has_names {
            return Err(ConfigError::value(
                "auth.hook.url",
                "name in auth.hook.headers or auth.hook.cookies what is posted to it",
            ));
        }
        Ok(())
    }

    fn check_numbers(&self) -> Result<(), ConfigError> {
        if self.concurrency == 0 {
            return Err(ConfigError::value(
                "auth.hook.concurrency",
                "must be more than 0",
            ));
        }
        let (timeout, lifetime) = (self.timeout.0, self.lifetime.0);
        if timeout.is_zero() || timeout > Duration::from_secs(60) {
            return Err(ConfigError::value(
                "auth.hook.timeout",
                "must be more than 0 and at most 60s, which clients have to wait",
            ));
        }
        if lifetime < Duration::from_secs(1) {
            return Err(ConfigError::value(
                "auth.hook.lifetime",
                "must be at least 1s",
            ));
        }
        Ok(())
    }
}

fn named(key: &str, name: &str, problem: &str) -> ConfigError {
    let shown: String = name.chars().take(100).collect();
    ConfigError::value(key, format!("{shown:?}: {problem}"))
}

/// The text is not shown: it may hold a password.
fn check_url(text: &str) -> Result<(), &'static str> {
    let url =
        Url::parse(text).map_err(|_| "not an absolute URL, such as https://example.com/whoami")?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("only http and https are supported");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("no user and password in it: use auth.hook.secret");
    }
    Ok(())
}

fn check_header(name: &str) -> Result<(), &'static str> {
    let name = HeaderName::try_from(name).map_err(|_| "not the name of a header")?;
    match name.as_str() {
        "cookie" => Err("name the cookies that are credentials in auth.hook.cookies"),
        name if NO_CREDENTIALS.contains(&name) || name.starts_with("sec-") => {
            Err("not a credential: every request has it")
        }
        _ => Ok(()),
    }
}

/// A token (RFC 6265, section 4.1.1), as the name of a header is.
fn check_cookie(name: &str) -> Result<(), &'static str> {
    match HeaderName::try_from(name) {
        Ok(_) => Ok(()),
        Err(_) => Err("not the name of a cookie"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Config;

    fn problem(hook: &str) -> Option<String> {
        let config = Config::from_toml(&format!("[auth.hook]\n{hook}"));
        config.err().map(|error| error.to_string())
    }

    const URL: &str = "url = \"https://example.com/whoami\"\ncookies = [\"sessionid\"]\n";

    #[test]
    fn a_hook_that_makes_no_sense_is_refused_by_its_key() {
        for (hook, key) in [
            ("cookies = [\"sessionid\"]", "auth.hook.url"),
            ("headers = [\"X-Session\"]", "auth.hook.url"),
            ("secret = \"s3cret\"", "auth.hook.url"),
            ("url = \"https://example.com\"", "auth.hook.url"),
            (
                "url = \"/whoami\"\ncookies = [\"sessionid\"]",
                "auth.hook.url",
            ),
            (
                "url = \"ftp://example.com\"\ncookies = [\"a\"]",
                "auth.hook.url",
            ),
            (
                "url = \"https://u:s3cret@example.com\"\ncookies = [\"a\"]",
                "auth.hook.url",
            ),
            (
                "url = \"https://u@example.com\"\ncookies = [\"a\"]",
                "auth.hook.url",
            ),
            (&format!("{URL}headers = [\"Cookie\"]"), "auth.hook.headers"),
            (
                &format!("{URL}headers = [\"User-Agent\"]"),
                "auth.hook.headers",
            ),
            (
                &format!("{URL}headers = [\"Sec-Fetch-Site\"]"),
                "auth.hook.headers",
            ),
            (&format!("{URL}headers = [\"a b\"]"), "auth.hook.headers"),
            (&format!("{URL}headers = [\"\"]"), "auth.hook.headers"),
            (
                "url = \"https://a.example\"\ncookies = [\"a=b\"]",
                "auth.hook.cookies",
            ),
            (
                "url = \"https://a.example\"\ncookies = [\"\"]",
                "auth.hook.cookies",
            ),
            (&format!("{URL}timeout = \"0s\""), "auth.hook.timeout"),
            (&format!("{URL}timeout = \"2m\""), "auth.hook.timeout"),
            (&format!("{URL}lifetime = \"0s\""), "auth.hook.lifetime"),
            (&format!("{URL}concurrency = 0"), "auth.hook.concurrency"),
        ] {
            let problem = problem(hook).unwrap_or_else(|| panic!("{hook} was taken"));
            assert!(problem.contains(&format!("`{key}`")), "{hook}: {problem}");
            assert!(!problem.contains("s3cret"), "{hook}: {problem}");
        }
    }

    #[test]
    fn a_hook_may_have_headers_or_cookies_or_both() {
        for names in [
            "headers = [\"X-Session\", \"Authorization\"]",
            "cookies = [\"connect.sid\", \"__Host-session\"]",
            "headers = [\"X-Session\"]\ncookies = [\"sessionid\"]\ncache = \"0s\"\nstale = \"0s\"",
        ] {
            let hook = format!("url = \"http://127.0.0.1:9000/whoami?x=1\"\n{names}");
            assert_eq!(problem(&hook), None);
        }
    }

    #[test]
    fn the_secret_is_in_no_dump() {
        let config = Config::from_toml(&format!("[auth.hook]\n{URL}secret = \"s3cret\"")).unwrap();
        assert!(!toml::to_string(&config).unwrap().contains("s3cret"));
        assert!(!format!("{config:?}").contains("s3cret"));
    }
}
