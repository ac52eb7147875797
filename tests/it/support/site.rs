use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread::JoinHandle,
};

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, dev::ServerHandle, web};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{oneshot, watch};

use super::within;

/// What the backend does with a question.
#[derive(Clone, Debug, PartialEq)]
pub enum Mood {
    /// Answers with the claims of its sessions, and 401 for others.
    Good,
    Status(u16),
    /// 302 to this path of its own, which lets everybody in.
    Redirect,
    /// 200 with this instead of claims.
    Says(String),
    /// Answers when its mood changes.
    Hangs,
}

/// One question as it came.
#[derive(Clone, Debug)]
pub struct Question {
    pub authorization: Option<String>,
    pub content_type: String,
    pub body: String,
}

#[derive(Deserialize)]
struct Asked {
    headers: BTreeMap<String, String>,
    cookies: BTreeMap<String, String>,
}

/// The backend of a site with its own login: answers who has a session, and counts how often it is asked.
pub struct Backend {
    pub address: SocketAddr,
    site: Arc<Site>,
    server: ServerHandle,
    thread: Option<JoinHandle<()>>,
}

struct Site {
    mood: watch::Sender<Mood>,
    /// Claims by the session's name, however it is shown.
    sessions: Mutex<HashMap<String, Value>>,
    questions: watch::Sender<Vec<Question>>,
    redirected: AtomicUsize,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
}

impl Backend {
    pub async fn start() -> Self {
        let site = Arc::new(Site {
            mood: watch::Sender::new(Mood::Good),
            sessions: Mutex::default(),
            questions: watch::Sender::new(Vec::new()),
            redirected: AtomicUsize::new(0),
            at_once: AtomicUsize::new(0),
            most_at_once: AtomicUsize::new(0),
        });
        let (tell, told) = oneshot::channel();
        let shared = Arc::clone(&site);
        let thread = std::thread::spawn(move || {
            actix_web::rt::System::new().block_on(async move {
                let server = HttpServer::new(move || {
                    App::new()
                        .app_data(web::Data::from(Arc::clone(&shared)))
                        .route("/whoami", web::post().to(whoami))
                        .route("/everybody", web::to(everybody))
                })
                .workers(1)
                .disable_signals()
                .shutdown_timeout(0)
                .bind("127.0.0.1:0")
                .expect("a port");
                let address = server.addrs()[0];
                let server = server.run();
                let told = tell.send((address, server.handle()));
                told.expect("the test listens");
                server.await.expect("the backend ends well");
            });
        });
        let (address, server) = told.await.expect("the backend starts");
        Self {
            address,
            site,
            server,
            thread: Some(thread),
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}/whoami", self.address)
    }

    /// Someone signs in: the session's name stands for these claims from now on.
    pub fn sign_in(&self, session: &str, claims: Value) {
        let mut sessions = self.site.sessions.lock().expect("not poisoned");
        sessions.insert(session.to_owned(), claims);
    }

    pub fn sign_out(&self, session: &str) {
        let mut sessions = self.site.sessions.lock().expect("not poisoned");
        sessions.remove(session).expect("a session");
    }

    pub fn is(&self, mood: Mood) {
        self.site.mood.send_replace(mood);
    }

    /// How often it was asked.
    pub fn calls(&self) -> usize {
        self.site.questions.borrow().len()
    }

    /// Waits until it was asked so often.
    pub async fn asked(&self, calls: usize) {
        let mut questions = self.site.questions.subscribe();
        let enough = questions.wait_for(|questions| questions.len() >= calls);
        within("calls of the backend", enough).await.expect("calls");
    }

    pub fn last_question(&self) -> Question {
        let questions = self.site.questions.borrow();
        questions.last().expect("a question").clone()
    }

    /// How many were led to where everybody is let in.
    pub fn redirected(&self) -> usize {
        self.site.redirected.load(Ordering::Relaxed)
    }

    pub fn most_at_once(&self) -> usize {
        self.site.most_at_once.load(Ordering::Relaxed)
    }

    /// From now on nobody listens.
    pub async fn stop(mut self) {
        self.site.mood.send_replace(Mood::Status(500));
        self.server.stop(false).await;
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the backend did not panic");
        }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        // What hangs is let go.
        self.site.mood.send_replace(Mood::Status(500));
        drop(self.server.stop(false));
    }
}

async fn whoami(request: HttpRequest, body: String, site: web::Data<Site>) -> HttpResponse {
    let text = |name: &str| {
        let value = request.headers().get(name)?;
        Some(value.to_str().expect("text").to_owned())
    };
    let question = Question {
        authorization: text("authorization"),
        content_type: text("content-type").unwrap_or_default(),
        body,
    };
    let now = site.at_once.fetch_add(1, Ordering::Relaxed) + 1;
    site.most_at_once.fetch_max(now, Ordering::Relaxed);
    let asked: Asked = serde_json::from_str(&question.body).expect("credentials");
    site.questions
        .send_modify(|questions| questions.push(question));
    let mut mood = site.mood.subscribe();
    let mood = mood.wait_for(|mood| *mood != Mood::Hangs).await;
    let mood = mood.expect("the site is there").clone();
    site.at_once.fetch_sub(1, Ordering::Relaxed);
    match mood {
        Mood::Good => site.answer(&asked),
        Mood::Status(status) => {
            let status = actix_web::http::StatusCode::from_u16(status).expect("a status");
            HttpResponse::build(status).body("no claims here")
        }
        Mood::Redirect => HttpResponse::Found()
            .insert_header(("Location", "/everybody"))
            .finish(),
        Mood::Says(text) => HttpResponse::Ok().body(text),
        Mood::Hangs => unreachable!("it waited for another mood"),
    }
}

impl Site {
    fn answer(&self, asked: &Asked) -> HttpResponse {
        let sessions = self.sessions.lock().expect("not poisoned");
        let mut shown = asked.headers.values().chain(asked.cookies.values());
        match shown.find_map(|session| sessions.get(session)) {
            Some(claims) => HttpResponse::Ok().json(claims),
            None => HttpResponse::Unauthorized().finish(),
        }
    }
}

async fn everybody(site: web::Data<Site>) -> HttpResponse {
    site.redirected.fetch_add(1, Ordering::Relaxed);
    HttpResponse::Ok().json(json!({"sub": "anybody", "subscribe": ["**"]}))
}
