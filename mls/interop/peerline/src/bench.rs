//! Times of one member's operations in a group of N, octets in and octets out, suite 1.
//!
//! A cold tree is one filled by a single commit of adds: all its parents are blank. In a warm tree
//! every member has made a commit with a path. It is built by external commits, one a member, as
//! then nobody has to follow all the others' commits.

use std::time::{Duration, Instant};

use crate::Figures;
use crate::client::{Client, Outcome, Plan};

const SUITE: u16 = 1;
const GROUP: &[u8] = b"bench";
const MOST: usize = 5000;
/// The largest group whose tree is warmed here: the cost is quadratic. `make bench` puts peers
/// into larger warm groups of another's making.
const WARM: usize = 300;
/// How long the building of a warm tree may take before it is given up.
const PATIENCE: Duration = Duration::from_secs(60);

fn identity(n: usize) -> String {
    format!("00000000-0000-4000-8000-{n:012}:1@example.org")
}

fn samples(n: usize) -> usize {
    if n <= 100 { 15 } else { 5 }
}

fn update() -> Plan {
    Plan { path: true, ..Plan::default() }
}

/// Measures everything in groups of n members and prints the medians.
pub fn run<C: Client>(n: usize) -> Outcome<()> {
    if !(2..=MOST).contains(&n) {
        return Err(format!("bench: 2 to {MOST} members"));
    }
    let mut figures = Figures::new(n);
    cold::<C>(n, &mut figures)?;
    if n <= WARM {
        warm::<C>(n, &mut figures)?;
    }
    figures.print();
    Ok(())
}

/// A group made by one commit, with its maker and its second member at hand.
fn founded<C: Client>(n: usize, figures: &mut Figures) -> Outcome<(C, C)> {
    let (mut maker, mut second) = (C::default(), C::default());
    let mut key_packages = vec![second.key_package(SUITE, &identity(1), false)?];
    // The others never act, so one client holds the keys of all of them.
    let mut crowd = C::default();
    for i in 2..n {
        key_packages.push(crowd.key_package(SUITE, &identity(i), false)?);
    }
    let made = figures.note("create", || {
        maker.create(SUITE, &identity(0), GROUP, false)?;
        maker.commit(GROUP, Plan { key_packages, ..Plan::default() })
    })?;
    let welcome = made.welcome.ok_or("no welcome")?;
    figures.note("join", || second.join(&welcome, None))?;
    Ok((maker, second))
}

fn cold<C: Client>(n: usize, figures: &mut Figures) -> Outcome<()> {
    for _ in 1..samples(n).min(3) {
        founded::<C>(n, figures)?;
    }
    let (mut maker, mut second) = founded::<C>(n, figures)?;
    for _ in 0..samples(n) {
        let made = figures.note("update_create_cold", || maker.commit(GROUP, update()))?;
        figures.note("update_process_cold", || second.process(GROUP, &made.commit))?;
    }
    for i in 0..samples(n) {
        let package = C::default().key_package(SUITE, &identity(n + i), false)?;
        let plan = Plan { key_packages: vec![package], ..Plan::default() };
        let made = figures.note("add_create", || maker.commit(GROUP, plan))?;
        figures.note("add_process", || second.process(GROUP, &made.commit))?;
        let plan = Plan { members: vec![n as u32], ..Plan::default() };
        let made = figures.note("remove_create", || maker.commit(GROUP, plan))?;
        figures.note("remove_process", || second.process(GROUP, &made.commit))?;
    }
    messages(&mut maker, &mut second, figures)
}

fn messages<C: Client>(maker: &mut C, second: &mut C, figures: &mut Figures) -> Outcome<()> {
    let data = [7; 1024];
    for _ in 0..100 {
        let sealed = figures.note("encrypt_1k", || maker.seal(GROUP, &data, Vec::new()))?;
        let opened = figures.note("decrypt_1k", || second.open(GROUP, &sealed))?;
        if opened.data != data {
            return Err("a message came out different".into());
        }
    }
    Ok(())
}

fn warm<C: Client>(n: usize, figures: &mut Figures) -> Outcome<()> {
    let start = Instant::now();
    let mut last = C::default();
    last.create(SUITE, &identity(0), GROUP, false)?;
    last.commit(GROUP, update())?;
    let mut before = C::default();
    for i in 1..n {
        if start.elapsed() > PATIENCE {
            eprintln!("no warm tree of {n} in {PATIENCE:?}");
            return Ok(());
        }
        let info = last.group_info(GROUP, true)?;
        before = std::mem::take(&mut last);
        let (_, commit) = last.external_join(&identity(i), &info, None, false)?;
        if i == n - 1 {
            before.process(GROUP, &commit)?;
        }
    }
    for _ in 0..samples(n) {
        let made = figures.note("update_create_warm", || last.commit(GROUP, update()))?;
        figures.note("update_process_warm", || before.process(GROUP, &made.commit))?;
    }
    Ok(())
}
