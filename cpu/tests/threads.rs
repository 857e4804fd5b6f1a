//! The threads that backends start and end. A program of its own, so that nobody else starts any.

#![cfg(target_os = "linux")]

use fallline_cpu::{Cpu, Isa};

/// Returns how many threads of backends there are.
fn workers() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let name = |task: std::io::Result<std::fs::DirEntry>| {
        std::fs::read_to_string(task.unwrap().path().join("comm")).unwrap_or_default()
    };
    tasks.map(name).filter(|name| name.starts_with("fallline-")).count()
}

#[test]
fn backends_share_threads_and_leave_none() {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let first = Cpu::new().unwrap();
    assert_eq!((first.threads(), workers()), (cores, cores - 1));
    let many: Vec<Cpu> = (0..500).map(|_| Cpu::new().unwrap()).collect();
    assert_eq!(workers(), cores - 1);
    drop((first, many));
    assert_eq!(workers(), 0);

    // Those that were asked for are separate.
    let (own, shared) = (Cpu::with_threads(3).unwrap(), Cpu::new().unwrap());
    assert_eq!(workers(), 2 + cores - 1);
    drop(own);
    assert_eq!(workers(), cores - 1);
    drop(shared);

    for _ in 0..2000 {
        drop(Cpu::new().unwrap());
    }
    let kept = Cpu::new().unwrap();
    for _ in 0..8000 {
        drop(Cpu::new().unwrap());
    }
    drop(kept);
    assert_eq!(workers(), 0);

    // From several threads at once, too.
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..200).for_each(|_| drop(Cpu::new().unwrap())));
        }
    });
    assert_eq!(workers(), 0);

    // Rayon's pool starts none of ours.
    let global = Cpu::with_global_pool().unwrap();
    assert_eq!((global.threads(), workers()), (rayon::current_num_threads(), 0));
    let single = Cpu::with_isa(Isa::Scalar, 1).unwrap();
    assert_eq!((single.threads(), workers()), (1, 0));
}
