//! Why an attempt failed, whether another may succeed, and what to tell the user.

use std::error::Error;
use std::fmt;
use std::io;
use std::time::Duration;

use reqwest::header::{HeaderMap, LOCATION, RETRY_AFTER};
use serde::Deserialize;

use super::{endpoint::Endpoint, tls_failure};

/// Longest error body that is read; the gateway's are far smaller.
const BODY_LIMIT: usize = 16 * 1024;

/// Longest wait that is taken over from a server; more is a mistake, or an attack on our arithmetic.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 60 * 60);

/// Why a request or a connection came to nothing.
#[derive(Debug)]
pub enum Failure {
    /// No connection came about: nobody listens, no such host.
    Unreachable(String),
    /// No agreement on TLS. Who was connected before may wait for another certificate; from the start it is a mistake.
    Untrusted(String),
    /// A connection broke, fell silent or carried what is not of the protocol.
    Broken(String),
    /// The gateway answered no.
    Refused(Refusal),
}

/// The gateway's own words: an error body, an `error` or `closing` frame, or a WebSocket close.
#[derive(Debug)]
pub struct Refusal {
    /// The HTTP status or the WebSocket close code.
    pub status: Option<u16>,
    /// A code of the protocol's section 8, or empty where something else than the gateway answered.
    pub code: String,
    pub message: String,
    /// `Retry-After`, `retryAfterMs` or `reconnectAfterMs`.
    pub retry_after: Option<Duration>,
}

/// What may help after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    Retry,
    RenewToken,
    GiveUp,
}

/// What was attempted, for advice that names it.
#[derive(Debug, Clone, Copy)]
pub struct Attempt<'a> {
    pub endpoint: &'a Endpoint,
    /// The grant that is needed: `publish` or `subscribe`.
    pub grant: &'static str,
    /// Empty where they are not known.
    pub topics: &'a [String],
}

impl Failure {
    /// Sorts an error of the HTTP client.
    pub fn of_request(error: &reqwest::Error) -> Self {
        if error.is_connect() {
            return Self::of_connect(error);
        }
        Self::Broken(root_cause(error))
    }

    /// Sorts an error that kept a connection from coming about.
    pub fn of_connect(error: &(dyn Error + 'static)) -> Self {
        match tls_failure::explain(error) {
            Some(why) => Self::Untrusted(why),
            None => Self::Unreachable(root_cause(error)),
        }
    }

    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Unreachable(_) | Self::Untrusted(_) | Self::Broken(_) => Remedy::Retry,
            Self::Refused(refusal) => refusal.remedy(),
        }
    }

    /// How long the gateway asked to stay away.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused(refusal) => refusal.retry_after,
            Self::Unreachable(_) | Self::Untrusted(_) | Self::Broken(_) => None,
        }
    }

    /// The failure, and on a second line what to do about it.
    pub fn explain(&self, attempt: Attempt<'_>) -> String {
        let advice = match self {
            Self::Unreachable(_) => Some(
                "is the gateway running? start it with `tribus serve`, or name its address by --url or TRIBUS_URL"
                    .to_owned(),
            ),
            Self::Untrusted(_) | Self::Broken(_) => None,
            Self::Refused(refusal) => refusal.advice(attempt),
        };
        let subject = match self {
            Self::Unreachable(_) | Self::Untrusted(_) => {
                format!("cannot connect to {}: {self}", attempt.endpoint.base())
            }
            Self::Broken(_) | Self::Refused(_) => self.to_string(),
        };
        advice.map_or(subject.clone(), |advice| format!("{subject}\n  {advice}"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(why) | Self::Untrusted(why) | Self::Broken(why) => f.write_str(why),
            Self::Refused(refusal) => refusal.fmt(f),
        }
    }
}

impl Refusal {
    /// Reads the error body of a response that is not a success.
    pub async fn of_response(mut response: reqwest::Response) -> Self {
        let mut body = Vec::new();
        while let Ok(Some(chunk)) = response.chunk().await {
            body.extend_from_slice(&chunk);
            if body.len() > BODY_LIMIT {
                break;
            }
        }
        Self::of_http(response.status().as_u16(), response.headers(), &body)
    }

    /// From the parts of an HTTP answer, whoever gave it.
    pub fn of_http(status: u16, headers: &HeaderMap, body: &[u8]) -> Self {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Body {
            code: String,
            message: String,
            retry_after_ms: Option<u64>,
        }
        let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let seconds = header(RETRY_AFTER).and_then(|value| value.trim().parse().ok());
        let retry_after = seconds.map(Duration::from_secs);
        let refusal = match serde_json::from_slice(body) {
            Ok(Body {
                code,
                message,
                retry_after_ms,
            }) => Self {
                status: Some(status),
                code,
                message,
                retry_after: retry_after_ms.map(Duration::from_millis).or(retry_after),
            },
            Err(_) => {
                let message = header(LOCATION).map_or_else(
                    || "the answer is not one of a Tribus gateway".to_owned(),
                    |place| format!("redirected to {place}"),
                );
                Self {
                    status: Some(status),
                    code: String::new(),
                    message,
                    retry_after,
                }
            }
        };
        Self {
            retry_after: refusal.retry_after.map(|wait| wait.min(LONGEST_WAIT)),
            ..refusal
        }
    }

    /// From a WebSocket close that no `error` or `closing` frame explained.
    pub fn of_close(status: u16, reason: &str) -> Self {
        let code = match status {
            4001..=4003 => "unauthorized",
            4004 => "token_expired",
            4005 => "revoked",
            1009 => "too_large",
            1011 => "internal",
            1012 => "restarting",
            1013 => "unavailable",
            _ if remedy_of_code(reason).is_some() => reason,
            _ => "closed",
        };
        let message = if reason.is_empty() {
            "the gateway closed the connection"
        } else {
            reason
        };
        Self {
            status: Some(status),
            code: code.to_owned(),
            message: message.to_owned(),
            retry_after: None,
        }
    }

    pub fn remedy(&self) -> Remedy {
        remedy_of_code(&self.code).unwrap_or(match self.status {
            None | Some(408 | 425 | 429 | 500..) => Remedy::Retry,
            Some(_) => Remedy::GiveUp,
        })
    }

    fn advice(&self, attempt: Attempt<'_>) -> Option<String> {
        let Attempt {
            endpoint,
            grant,
            topics,
        } = attempt;
        Some(match self.code.as_str() {
            "unauthorized" if endpoint.credential().is_none() => {
                "no token was given: set TRIBUS_TOKEN in this terminal, or give --token-file; `tribus serve` in development mode \
                 prints one, `tribus token` makes one"
                    .to_owned()
            }
            "unauthorized" => "the gateway does not accept this token: check that TRIBUS_TOKEN, --token or --token-file \
                               holds one that was signed for this gateway; in development mode each start \
                               has tokens of its own"
                .to_owned(),
            "token_expired" => "get a fresh token (`tribus token`) and set TRIBUS_TOKEN; from a --token-file that is \
                                renewed in time a running command takes the new one by itself"
                .to_owned(),
            "revoked" => "an operator has ended the access of this subject, or of this token alone: until the time that \
                          they set, another token of the same subject is refused too"
                .to_owned(),
            "forbidden" => advice_on_grants(grant, topics),
            "bad_topic" => "a topic has 1 to 255 bytes without white space, control characters or `,`; only filters to \
                            subscribe to may hold `*`"
                .to_owned(),
            "bad_cursor" => {
                "use a cursor that a gateway gave, or `earliest`; a damaged --cursor-file can be removed".to_owned()
            }
            "conflict" => "this key was used for another event within the last 10 minutes: give another --key".to_owned(),
            "" => format!("is {} the gateway's own address? check --url or TRIBUS_URL", endpoint.base()),
            _ => return None,
        })
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.code.is_empty() {
            write!(f, "{}: ", self.code)?;
        }
        f.write_str(&self.message)?;
        match self.status {
            Some(status) if status < 1000 => write!(f, " (HTTP {status})"),
            Some(status) => write!(f, " (close {status})"),
            None => Ok(()),
        }
    }
}

/// The command is there to be pasted into a shell, so a topic must not end its own quotes.
fn advice_on_grants(grant: &str, topics: &[String]) -> String {
    let options: String = topics
        .iter()
        .map(|topic| format!(" --{grant} '{}'", topic.replace('\'', r"'\''")))
        .collect();
    let options = if options.is_empty() {
        format!(" --{grant} TOPIC")
    } else {
        options
    };
    format!(
        "use a token that is granted it, such as one made with: tribus token --sub NAME{options}"
    )
}

/// The innermost reason, which is the one that means something to a user.
pub fn root_cause(error: &(dyn Error + 'static)) -> String {
    let chain = std::iter::successors(Some(error), |&error| error.source());
    let refused = chain
        .clone()
        .filter_map(|error| error.downcast_ref::<io::Error>());
    if refused
        .into_iter()
        .any(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    {
        return "connection refused".to_owned();
    }
    chain.last().map_or_else(String::new, ToString::to_string)
}

/// What the codes of the protocol mean to a client; `None` for a code that it does not know.
fn remedy_of_code(code: &str) -> Option<Remedy> {
    Some(match code {
        "token_expired" => Remedy::RenewToken,
        "unauthorized"
        | "revoked"
        | "forbidden"
        | "bad_request"
        | "bad_topic"
        | "bad_cursor"
        | "conflict"
        | "too_large"
        | "too_many_subscriptions" => Remedy::GiveUp,
        "rate_limited" | "too_many_connections" | "unavailable" | "internal" => Remedy::Retry,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_grant_is_told_with_the_command_that_gives_it() {
        for (topics, options) in [
            (&["a:*", "b"][..], "--publish 'a:*' --publish 'b'"),
            (&["it's"], r"--publish 'it'\''s'"),
            (&[], "--publish TOPIC"),
        ] {
            let topics: Vec<_> = topics.iter().map(|&topic| topic.to_owned()).collect();
            let advice = advice_on_grants("publish", &topics);
            let command = format!("tribus token --sub NAME {options}");
            assert!(advice.ends_with(&command), "{advice}");
        }
    }

    #[test]
    fn the_code_decides_and_the_status_where_there_is_none() {
        let http = |status, body: &str| {
            Refusal::of_http(status, &HeaderMap::new(), body.as_bytes()).remedy()
        };
        assert_eq!(
            http(
                401,
                r#"{"type":"error","code":"token_expired","message":"m"}"#
            ),
            Remedy::RenewToken
        );
        assert_eq!(
            http(
                401,
                r#"{"type":"error","code":"unauthorized","message":"m"}"#
            ),
            Remedy::GiveUp
        );
        assert_eq!(
            http(
                429,
                r#"{"type":"error","code":"rate_limited","message":"m"}"#
            ),
            Remedy::Retry
        );
        assert_eq!(http(502, "<html>"), Remedy::Retry);
        assert_eq!(http(404, "<html>"), Remedy::GiveUp);
    }

    #[test]
    fn closes_say_whether_to_come_back() {
        let close = |status, reason| Refusal::of_close(status, reason).remedy();
        assert_eq!(close(4002, ""), Remedy::GiveUp);
        assert_eq!(close(4004, ""), Remedy::RenewToken);
        assert_eq!(close(4005, ""), Remedy::GiveUp);
        assert_eq!(close(1008, "unauthorized"), Remedy::GiveUp);
        assert_eq!(close(1008, "slow down"), Remedy::Retry);
        assert_eq!(close(1012, "restart"), Remedy::Retry);
        assert_eq!(close(1000, ""), Remedy::Retry);
    }

    #[test]
    fn the_wait_is_read_from_the_body_or_the_header_and_bounded() {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, "7".parse().unwrap());
        let refusal = Refusal::of_http(503, &headers, b"");
        assert_eq!(refusal.retry_after, Some(Duration::from_secs(7)));
        let body = br#"{"code":"rate_limited","message":"m","retryAfterMs":6100}"#;
        let refusal = Refusal::of_http(429, &headers, body);
        assert_eq!(refusal.retry_after, Some(Duration::from_millis(6100)));
        headers.insert(RETRY_AFTER, u64::MAX.into());
        assert_eq!(
            Refusal::of_http(503, &headers, b"").retry_after,
            Some(LONGEST_WAIT)
        );
    }
}
