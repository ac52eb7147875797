//! The one thread that does an engine's I/O.

use std::{
    fmt::Display,
    sync::{Mutex, PoisonError, mpsc},
    thread::JoinHandle,
};

use anyhow::Context;
use tokio::{runtime::Handle, sync::watch};

use crate::engine::EngineError;

/// Has the connections of an engine; ends when it is told to, or with its owner.
pub struct EngineThread {
    runtime: Handle,
    stop: watch::Sender<bool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl EngineThread {
    /// Starts a thread, and on it what `begin` makes. When that is done the thread goes on with what
    /// was spawned, until it is told to end: then with what `begin` gave, and no further.
    ///
    /// # Errors
    /// Those of `begin`, after `what` it was about; or where there is no thread to be had.
    pub fn start<B, F, L, E>(name: &str, what: &str, begin: B) -> anyhow::Result<Self>
    where
        B: FnOnce() -> F + Send + 'static,
        F: Future<Output = Result<L, E>>,
        L: Future<Output = ()>,
        E: Display + Send + 'static,
    {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let handle = runtime.handle().clone();
        let (stop, mut stopped) = watch::channel(false);
        let (tell, told) = mpsc::sync_channel(1);
        // It need not be one that could go from thread to thread.
        let run = async move || {
            let last = match begin().await {
                Ok(last) => last,
                Err(trouble) => {
                    let _ = tell.send(Err(trouble));
                    return;
                }
            };
            let _ = tell.send(Ok(()));
            let _ = stopped.wait_for(|stop| *stop).await;
            last.await;
        };
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || runtime.block_on(run()))?;
        let begun = told.recv().context("the thread of the log has ended")?;
        // Its sources say again what it says.
        begun.map_err(|trouble| anyhow::anyhow!("{what}: {trouble}"))?;
        Ok(Self {
            runtime: handle,
            stop,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Runs on the thread, where the connections are.
    ///
    /// # Errors
    /// Those of the work; [`EngineError::Unavailable`] where the thread has ended.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, EngineError>> + Send + 'static,
    ) -> Result<T, EngineError> {
        self.runtime.spawn(work).await.map_err(|_| closed())?
    }

    /// Ends it, and waits for its end.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`] where it was told to before.
    pub async fn end(&self) -> Result<(), EngineError> {
        if self.stop.send_replace(true) {
            return Err(closed());
        }
        let thread = self.thread.lock();
        let thread = thread.unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
        Ok(())
    }
}

fn closed() -> EngineError {
    EngineError::Unavailable("the log is closed".into())
}
