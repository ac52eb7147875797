//! Requests whose length a proxy in front might read otherwise than the gateway (RFC 9112,
//! section 11.2), each with a second request where the two could differ: it is answered where the
//! gateway agrees that it is one, and nowhere else.

use super::{Attack, Bare, Error, Good, Scene, fatal, harmless, request, smuggled};

const EVENT: &str = r#"{"topic":"a:1"}"#;
/// The event as one chunk, and the end.
const CHUNKED: &str = "f\r\n{\"topic\":\"a:1\"}\r\n0\r\n\r\n";

/// A publish with these headers, this body, and a request behind it.
fn publish(headers: &str, body: &str) -> String {
    let head = request("POST /publish", &format!("{headers}\r\n\r\n"));
    format!("{head}{body}{}", smuggled())
}

/// A publish as one chunk.
fn publish_chunks(chunks: &str) -> String {
    publish("Transfer-Encoding: chunked", chunks)
}

/// Refused before the body, whoever sees a request in the rest.
fn two_lengths(what: &str, headers: &str, body: &str) -> Attack {
    fatal(what, publish(headers, body), &[Bare(400)])
}

#[tokio::test]
async fn a_length_that_can_be_read_in_two_ways_is_refused_with_the_connection() {
    let mut scene = Scene::start().await;
    let attacks = vec![
        two_lengths(
            "both lengths",
            "Content-Length: 15\r\nTransfer-Encoding: chunked",
            CHUNKED,
        ),
        two_lengths(
            "both lengths, the other way round",
            "Transfer-Encoding: chunked\r\nContent-Length: 34",
            CHUNKED,
        ),
        two_lengths(
            "both lengths, one of them 0",
            "Content-Length: 0\r\nTransfer-Encoding: chunked",
            CHUNKED,
        ),
        two_lengths(
            "the same length twice",
            "Content-Length: 15\r\nContent-Length: 15",
            EVENT,
        ),
        two_lengths(
            "two lengths that differ",
            "Content-Length: 15\r\nContent-Length: 3",
            EVENT,
        ),
        two_lengths("a list of lengths", "Content-Length: 15, 15", EVENT),
    ];
    scene.survives(attacks).await;
}

#[tokio::test]
async fn a_length_that_is_no_number_is_refused_with_the_connection() {
    let mut scene = Scene::start().await;
    let lengths = [
        "-15",
        "+15",
        "0xf",
        "f",
        "1 5",
        "15;x",
        "15.0",
        "1e1",
        "",
        "'15'",
        "\u{661}\u{665}",
        // 2 to the 64th
        "18446744073709551616",
    ];
    let attacks = lengths
        .iter()
        .map(|length| {
            let header = format!("Content-Length: {length}");
            two_lengths(&format!("a length of {length:?}"), &header, EVENT)
        })
        .collect();
    scene.survives(attacks).await;
}

#[tokio::test]
async fn a_transfer_coding_other_than_chunked_is_refused_with_the_connection() {
    let mut scene = Scene::start().await;
    let codings = [
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: identity, chunked",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: chunked;q=1",
        "Transfer-Encoding: \x0bchunked",
        "Transfer-Encoding: chunke\u{212a}d",
        "Transfer-Encoding:",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    ];
    let attacks = codings
        .iter()
        .map(|coding| two_lengths(coding, coding, CHUNKED))
        .collect();
    scene.survives(attacks).await;
}

#[tokio::test]
async fn a_header_that_hides_from_other_parsers_is_refused_with_the_connection() {
    let mut scene = Scene::start().await;
    let folded = request("GET /poll?topics=a:1", "X-A: a\r\n b\r\n\r\n");
    let bare_cr = request("GET /poll?topics=a:1", "X-A: a\rX-B: b\r\n\r\n");
    let attacks = vec![
        two_lengths(
            "white space before the colon of the coding",
            "Transfer-Encoding : chunked",
            CHUNKED,
        ),
        two_lengths(
            "white space before the colon of the length",
            "Content-Length : 15",
            EVENT,
        ),
        two_lengths(
            "a tab before the colon",
            "Transfer-Encoding\t: chunked",
            CHUNKED,
        ),
        two_lengths("a folded coding", "Transfer-Encoding:\r\n chunked", CHUNKED),
        two_lengths(
            "a folded header before the length",
            "X-A: a\r\n\tb\r\nContent-Length: 15",
            EVENT,
        ),
        two_lengths("an indented header", " Content-Length: 15", EVENT),
        two_lengths("a header without a colon", "Content-Length 15", EVENT),
        two_lengths("a header without a name", ": chunked", CHUNKED),
        two_lengths("a name with NUL", "Content-\0Length: 15", EVENT),
        two_lengths("a value with NUL", "Content-Length: 15\0", EVENT),
        fatal("a folded header", folded, &[Bare(400)]),
        fatal("a line that ends in CR alone", bare_cr, &[Bare(400)]),
    ];
    scene.survives(attacks).await;
}

#[tokio::test]
async fn chunks_that_are_malformed_are_a_bad_request_and_end_the_connection() {
    let mut scene = Scene::start().await;
    let cases = [
        ("a size of more than 64 bits", "fffffffffffffffff\r\nx"),
        ("a negative size", "-1\r\nx"),
        ("a signed size", "+f\r\n{\"topic\":\"a:1\"}\r\n0\r\n\r\n"),
        ("a size with 0x", "0xf\r\n{\"topic\":\"a:1\"}\r\n0\r\n\r\n"),
        ("a size that is no number", "g\r\nx\r\n0\r\n\r\n"),
        ("no size", "\r\n0\r\n\r\n"),
        (
            "a size behind a space",
            " f\r\n{\"topic\":\"a:1\"}\r\n0\r\n\r\n",
        ),
        (
            "a size in two parts",
            "1 5\r\n{\"topic\":\"a:1\"}\r\n0\r\n\r\n",
        ),
        ("a size line without CR", "f\n{\"topic\":\"a:1\"}\n0\n\n"),
        (
            "LF in an extension",
            "f;a\nb\r\n{\"topic\":\"a:1\"}\r\n0\r\n\r\n",
        ),
        (
            "NUL in an extension",
            "f;a\0b\r\n{\"topic\":\"a:1\"}\r\n0\r\n\r\n",
        ),
        (
            "a chunk that is longer than it says",
            "e\r\n{\"topic\":\"a:1\"}\r\n0\r\n\r\n",
        ),
        (
            "a chunk that is shorter than it says",
            "f\r\n{\"topic\":\"a\"}\r\n0\r\n\r\n",
        ),
        (
            "no line break behind a chunk",
            "f\r\n{\"topic\":\"a:1\"}0\r\n\r\n",
        ),
    ];
    let attacks = cases
        .iter()
        .map(|(what, chunks)| fatal(*what, publish_chunks(chunks), &[Error(400, "bad_request")]))
        .collect();
    scene.survives(attacks).await;
    let (_, page) = scene
        .gateway
        .poll("topics=a:1&cursor=earliest&wait=0")
        .await;
    assert!(page["events"].as_array().unwrap().is_empty(), "{page}");
}

#[tokio::test]
async fn what_looks_odd_and_has_one_length_only_is_served_with_what_follows_it() {
    let mut scene = Scene::start().await;
    let served = &[Good(200), Error(404, "not_found")];
    let get_with = |headers: &str, body: &str| {
        let head = request("GET /poll?topics=a:1", &format!("{headers}\r\n\r\n"));
        format!("{head}{body}{}", smuggled())
    };
    let within_a_body = smuggled();
    let attacks = vec![
        harmless(
            "leading zeros",
            publish("Content-Length: 0015", EVENT),
            served,
        ),
        harmless(
            "a coding in capitals",
            publish("TRANSFER-ENCODING: CHUNKED", CHUNKED),
            served,
        ),
        harmless(
            "a tab before the coding",
            publish("Transfer-Encoding:\tchunked", CHUNKED),
            served,
        ),
        harmless(
            "an extension",
            publish_chunks("f;a=b\r\n{\"topic\":\"a:1\"}\r\n0\r\n\r\n"),
            served,
        ),
        harmless(
            "a length in the trailers",
            publish_chunks("f\r\n{\"topic\":\"a:1\"}\r\n0\r\nContent-Length: 900\r\n\r\n"),
            served,
        ),
        harmless(
            "a request that is the body of a GET",
            get_with(
                &format!("Content-Length: {}", within_a_body.len()),
                &within_a_body,
            ),
            served,
        ),
        harmless(
            "a request in the chunks of a GET",
            get_with(
                "Transfer-Encoding: chunked",
                &format!("{:x}\r\n{within_a_body}\r\n0\r\n\r\n", within_a_body.len()),
            ),
            served,
        ),
        harmless(
            "empty lines before a request",
            format!("\r\n\r\n{}", smuggled()),
            &served[1..],
        ),
    ];
    scene.survives(attacks).await;
}

#[tokio::test]
async fn a_body_that_is_refused_unread_is_never_taken_for_a_request() {
    let mut scene = Scene::start().await;
    let hidden = smuggled().repeat(20);
    let announced = format!("Content-Length: {}\r\n\r\n{hidden}", 9_999_999);
    let without_token = format!("POST /publish HTTP/1.1\r\nHost: x\r\n{announced}");
    let attacks = vec![
        fatal(
            "too large",
            request("POST /publish", &announced),
            &[Error(413, "too_large")],
        ),
        fatal("no token", without_token, &[Error(401, "unauthorized")]),
        fatal(
            "no such path",
            request("POST /nope", &announced),
            &[Error(404, "not_found")],
        ),
        fatal(
            "a wrong method",
            request("PUT /poll", &announced),
            &[Error(405, "method_not_allowed")],
        ),
        fatal(
            "a preflight with a body",
            request("OPTIONS /poll", &announced),
            &[Good(204)],
        ),
        fatal(
            "operators: a wrong path",
            request("POST /nope", &announced),
            &[Error(404, "not_found")],
        )
        .at_operators(),
    ];
    scene.survives(attacks).await;
}
