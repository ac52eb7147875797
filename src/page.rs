//! The page at `/` and the JavaScript client, embedded in the binary.

use actix_web::{
    HttpRequest, HttpResponse,
    http::header::{self, HeaderValue},
    web,
};
use rust_embed::RustEmbed;

use crate::transport;

#[derive(RustEmbed)]
#[folder = "static/"]
struct Assets;

/// What is for the npm registry, and is not served.
const PACKAGE: &str = "package.json";

/// The JavaScript client and its hooks begin with these. Pages of other origins may load them from the
/// gateway, so that they need no copy of their own that grows old.
const CLIENT: [&str; 2] = ["tribus", "react."];

/// Scripts and styles come from the gateway alone, connections go to it alone (`'self'` covers its
/// WebSocket too), and no text of an event can become markup.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; \
     frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

/// Browsers ask each time, so that page and gateway are of the same release.
const REVALIDATE: &str = "no-cache";

/// Whether the JavaScript client, or a part of it, is served at this path.
pub fn is_client(path: &str) -> bool {
    let name = path.trim_start_matches('/');
    CLIENT.iter().any(|start| name.starts_with(start)) && Assets::get(name).is_some()
}

pub fn configure(app: &mut web::ServiceConfig) {
    for path in Assets::iter().filter(|path| path != PACKAGE) {
        let route = if path == "index.html" {
            "/".to_owned()
        } else {
            format!("/{path}")
        };
        app.service(
            transport::endpoint(&route, "GET, HEAD")
                .route(web::get().to(asset))
                .route(web::head().to(asset)),
        );
    }
}

async fn asset(request: HttpRequest) -> HttpResponse {
    let path = match request.path().trim_start_matches('/') {
        "" => "index.html",
        path => path,
    };
    let Some(file) = Assets::get(path) else {
        return HttpResponse::NotFound().finish();
    };
    let tag = entity_tag(&file.metadata.sha256_hash());
    if knows(&request, &tag) {
        return HttpResponse::NotModified()
            .insert_header((header::ETAG, tag))
            .insert_header((header::CACHE_CONTROL, REVALIDATE))
            .finish();
    }
    let mut response = HttpResponse::Ok();
    if is_client(path) {
        response
            .insert_header((header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"))
            .insert_header((header::CROSS_ORIGIN_RESOURCE_POLICY, "cross-origin"));
    }
    response
        .insert_header((header::ETAG, tag))
        .insert_header((header::CACHE_CONTROL, REVALIDATE))
        .insert_header((header::CONTENT_TYPE, content_type(path)))
        .insert_header((header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY))
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header((header::REFERRER_POLICY, "no-referrer"))
        .body(file.data.into_owned())
}

/// Whether the client has the asset already (RFC 9110, section 13.1.2, by weak comparison).
fn knows(request: &HttpRequest, tag: &str) -> bool {
    request
        .headers()
        .get_all(header::IF_NONE_MATCH)
        .filter_map(|known| known.to_str().ok())
        .flat_map(|known| known.split(','))
        .map(str::trim)
        .any(|known| known == "*" || known.trim_start_matches("W/") == tag)
}

fn entity_tag(hash: &[u8]) -> String {
    let digits: String = hash
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("\"{digits}\"")
}

fn content_type(path: &str) -> HeaderValue {
    HeaderValue::from_static(match path.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("ts") => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    })
}
