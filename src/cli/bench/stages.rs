//! The stages of a run: open, let it idle, publish, wait for the rest, and with `--resume` away and back.

use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::course::{Course, nanoseconds};
use super::plan::MISSED_EACH;
use super::progress::Progress;
use super::publisher::{Published, Publisher, Schedule};
use super::reader::{Reader, Share, Sight};
use super::server::Process;

/// Opening is over when nobody has come in for so long.
const OPENING_PATIENCE: Duration = Duration::from_secs(10);

/// What the gateway still does for new clients is not what an idle one takes.
const SETTLING: Duration = Duration::from_millis(500);

/// From when all is ready until the first event is due.
const LEAD: Duration = Duration::from_millis(50);

/// After the last event has come: what comes now was repeated.
const AFTERMATH: Duration = Duration::from_millis(200);

/// A gateway that repeats events without an end is not listened to for ever: so many times the grace.
const MOST_GRACES: u32 = 20;

const LOOK_EVERY: Duration = Duration::from_millis(20);
const SHOW_EVERY: Duration = Duration::from_millis(200);

/// What a run has found out.
#[derive(Debug)]
pub struct Findings {
    pub share: Share,
    pub published: Arc<Published>,
    /// Until the last client was subscribed.
    pub opened_in: Duration,
    /// When the first event was due, in nanoseconds since the run began.
    pub started_at: u64,
    /// Deliveries until all had come, without those to clients that came back.
    pub deliveries: u64,
    /// Of those, the ones while events were published.
    pub steady_deliveries: u64,
    pub catch_up: Option<CatchUp>,
    pub gateway: Option<Gateway>,
}

/// Everyone coming back at once.
#[derive(Debug)]
pub struct CatchUp {
    pub clients: usize,
    /// Of those, how many have all they missed.
    pub complete: usize,
    /// Events delivered to them.
    pub deliveries: u64,
    /// From opening the connections until the last of these events.
    pub took: Duration,
}

/// What the gateway's process took.
#[derive(Debug, Default)]
pub struct Gateway {
    /// Bytes before the clients came, with all of them and no events, and at the end.
    pub memory_before: u64,
    pub memory_idle: u64,
    pub memory_after: u64,
    /// From the first event until all had come.
    pub cpu: Duration,
    /// Nanoseconds since the run began, and bytes.
    pub memory: Vec<(u64, u64)>,
}

/// The run, while it goes on.
struct Run<'a> {
    course: Arc<Course>,
    readers: Vec<Reader>,
    process: Option<&'a Process>,
    progress: &'a Progress,
    gateway: Gateway,
    steady_deliveries: u64,
    sampled: Instant,
    shown: Instant,
}

/// Runs all stages.
///
/// # Errors
/// Where this machine or `process` fails; what the gateway does wrong is among the findings.
pub fn run(
    course: &Arc<Course>,
    process: Option<&Process>,
    progress: &Progress,
) -> Result<Findings> {
    let mut run = Run {
        readers: readers(course)?,
        course: Arc::clone(course),
        process,
        progress,
        gateway: Gateway::default(),
        steady_deliveries: 0,
        sampled: Instant::now(),
        shown: Instant::now(),
    };
    let opened_in = run.open()?;
    let mut published = Published::new(course.plan.topics);
    let has_clients = run.look()?.live > 0;
    let mut started_at = course.now();
    let mut deliveries = 0;
    let mut catch_up = None;
    if has_clients {
        started_at = run.publish(&mut published)?;
        deliveries = run.look()?.delivered;
        if course.plan.resume {
            catch_up = Some(run.leave_and_return(&mut published)?);
        }
    }
    let gateway = process.map(|_| run.gateway);
    let published = Arc::new(published);
    let share = finish(run.readers, &published)?;
    Ok(Findings {
        share,
        published,
        opened_in,
        started_at,
        deliveries,
        steady_deliveries: run.steady_deliveries,
        catch_up,
        gateway,
    })
}

/// The threads; clients are dealt out to them in turn.
fn readers(course: &Arc<Course>) -> Result<Vec<Reader>> {
    let threads = course.plan.threads;
    let share = |thread| (thread..course.plan.connections).step_by(threads).collect();
    (0..threads)
        .map(|thread| Reader::start(Arc::clone(course), share(thread)))
        .collect()
}

fn finish(readers: Vec<Reader>, published: &Arc<Published>) -> Result<Share> {
    let mut all = Share::new();
    for reader in readers {
        all.merge(reader.finish(published)?);
    }
    Ok(all)
}

impl Run<'_> {
    /// Opens all clients' connections; gives how long it took.
    fn open(&mut self) -> Result<Duration> {
        if let Some(process) = self.process {
            self.gateway.memory_before = process.memory()?;
        }
        let connections = self.course.plan.connections;
        self.progress.stage("connecting", connections as u64);
        let began = self.course.now();
        self.readers.iter().try_for_each(Reader::open)?;
        let (mut settled, mut changed) = (0, Instant::now());
        loop {
            let sight = self.look()?;
            self.progress
                .advance(sight.live as u64, || format!("{} refused", sight.left));
            if sight.live + sight.left > settled {
                (settled, changed) = (sight.live + sight.left, Instant::now());
            }
            if sight.coming == 0 || changed.elapsed() > OPENING_PATIENCE {
                if let Some(process) = self.process {
                    sleep(SETTLING);
                    self.gateway.memory_idle = process.memory()?;
                }
                return Ok(Duration::from_nanos(sight.last_live.saturating_sub(began)));
            }
            sleep(LOOK_EVERY);
        }
    }

    /// Publishes all events of the steady phase, and waits until everyone has them; gives when the first was due.
    fn publish(&mut self, published: &mut Published) -> Result<u64> {
        let plan = &self.course.plan;
        let schedule = Schedule {
            start: self.course.now() + nanoseconds(LEAD),
            events: plan.events(),
            first: published.counts(),
            at_once: false,
        };
        let before = self.process.map(Process::cpu_time).transpose()?;
        let begin = |reader: &Reader| reader.begin(schedule.start);
        self.readers.iter().try_for_each(begin)?;
        let publisher = Publisher::start(&self.course, &schedule)?;
        self.progress.stage("publishing", schedule.events);
        while !publisher.is_finished() {
            sleep(LOOK_EVERY);
            self.sample()?;
            self.show(publisher.done())?;
        }
        publisher.finish(published)?;
        self.steady_deliveries = self.look()?.delivered;
        let goals = published.goals();
        self.readers
            .iter()
            .try_for_each(|reader| reader.end(&goals))?;
        self.wait_for_all()?;
        if let (Some(process), Some(before)) = (self.process, before) {
            self.gateway.cpu = process.cpu_time()?.saturating_sub(before);
            self.gateway.memory_after = process.memory()?;
        }
        Ok(schedule.start)
    }

    /// Cuts all connections, publishes, and opens them again at once.
    fn leave_and_return(&mut self, published: &mut Published) -> Result<CatchUp> {
        self.readers.iter().try_for_each(Reader::leave)?;
        // Answered once they have left.
        let before = self.look()?.delivered;
        let schedule = Schedule {
            start: self.course.now(),
            events: u64::from(MISSED_EACH) * u64::from(self.course.plan.topics),
            first: published.counts(),
            at_once: true,
        };
        Publisher::start(&self.course, &schedule)?.finish(published)?;
        let goals = published.goals();
        let began = self.course.now();
        self.readers
            .iter()
            .try_for_each(|reader| reader.come_back(&goals))?;
        let sight = self.wait_for_all()?;
        Ok(CatchUp {
            clients: sight.taking_part,
            complete: sight.complete,
            deliveries: sight.delivered.saturating_sub(before),
            took: Duration::from_nanos(sight.last_delivery.saturating_sub(began)),
        })
    }

    /// Waits until all clients have what was published, or nothing has come for the grace.
    fn wait_for_all(&mut self) -> Result<Sight> {
        let grace = self.course.plan.grace;
        let began = Instant::now();
        let started = self.course.now();
        let clients = self.look()?.taking_part as u64;
        self.progress.stage("waiting", clients);
        loop {
            let sight = self.look()?;
            self.progress
                .advance(sight.complete as u64, || "clients have all".to_owned());
            if sight.complete == sight.taking_part {
                sleep(AFTERMATH);
                return self.look();
            }
            let heard = sight.last_delivery.max(started);
            let quiet = Duration::from_nanos(self.course.now().saturating_sub(heard));
            if quiet > grace || began.elapsed() > grace * MOST_GRACES {
                return Ok(sight);
            }
            sleep(LOOK_EVERY);
            self.sample()?;
        }
    }

    fn look(&self) -> Result<Sight> {
        let mut all = Sight::default();
        for reader in &self.readers {
            all.add(reader.look()?);
        }
        Ok(all)
    }

    /// Shows how far publishing is, now and then: looking at all clients takes their thread's time.
    fn show(&mut self, done: u64) -> Result<()> {
        if self.shown.elapsed() >= SHOW_EVERY {
            self.shown = Instant::now();
            if self.progress.is_shown() {
                let delivered = self.look()?.delivered;
                self.progress
                    .advance(done, || format!("{delivered} deliveries"));
            }
        }
        Ok(())
    }

    /// Notes the gateway's memory, once a second.
    fn sample(&mut self) -> Result<()> {
        if let Some(process) = self.process
            && self.sampled.elapsed() >= Duration::from_secs(1)
        {
            self.sampled = Instant::now();
            self.gateway
                .memory
                .push((self.course.now(), process.memory()?));
        }
        Ok(())
    }
}
