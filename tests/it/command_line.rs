//! The binary, as its users run it.

mod configuration;
mod following;
mod operating;
mod real_input;
mod serving;

use crate::support::{Claims, Ended, Program, SECRET};

const SECRET_VARIABLE: (&str, &str) = ("TRIBUS__AUTH__HS256_SECRET", SECRET);

/// `tribus serve` with the tests' secret, on its addresses.
pub struct Serving {
    pub program: Program,
    pub address: String,
    admin: String,
}

impl Serving {
    /// On free ports.
    pub async fn start(variables: &[(&str, &str)]) -> Self {
        Self::start_on("127.0.0.1:0", variables).await
    }

    /// On free ports, with a log of JSON lines.
    pub async fn json(variables: &[(&str, &str)]) -> Self {
        let mut program = Self::program("127.0.0.1:0", variables);
        let line = program.says("listening").await;
        let line: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        let field = |name: &str| {
            line["fields"][name]
                .as_str()
                .expect("an address")
                .to_owned()
        };
        Self {
            address: field("address"),
            admin: field("admin"),
            program,
        }
    }

    fn program(address: &str, variables: &[(&str, &str)]) -> Program {
        let mut all = vec![SECRET_VARIABLE];
        all.extend_from_slice(variables);
        let arguments = [
            "serve",
            "--listen",
            address,
            "--admin-listen",
            "127.0.0.1:0",
        ];
        Program::tribus(&arguments, &all)
    }

    pub async fn start_on(address: &str, variables: &[(&str, &str)]) -> Self {
        let mut program = Self::program(address, variables);
        let line = program.says("listening").await;
        let field = |name: &str| {
            let after = line.split_once(name).expect("an address").1;
            after
                .split_whitespace()
                .next()
                .expect("an address")
                .to_owned()
        };
        Self {
            address: field("address="),
            admin: field("admin="),
            program,
        }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// `tribus` as a client of this gateway that may do everything.
    fn client(&self, arguments: &[&str]) -> Program {
        let token = Claims::all("alice").token();
        let url = self.url("");
        Program::tribus(arguments, &[("TRIBUS_URL", &url), ("TRIBUS_TOKEN", &token)])
    }

    pub async fn terminate(self) -> Ended {
        self.program.signal("TERM");
        self.program.ended().await
    }
}

/// Runs `tribus` to its end.
async fn tribus(arguments: &[&str], variables: &[(&str, &str)]) -> Ended {
    Program::tribus(arguments, variables).ended().await
}
