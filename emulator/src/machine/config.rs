//! What can be switched: by the environment when the machine starts, by a test afterwards.

use super::fault::Status;

/// The options.
#[derive(Clone, Debug)]
pub struct Config {
    /// Uninitialised memory, races, divergent barriers, contractions.
    pub checked: bool,
    /// Streams run when something depends on them.
    pub lazy: bool,
    /// The order of blocks, warps and atomics; 0 is the natural one.
    pub seed: u64,
    pub devices: u32,
    /// Bytes of each device.
    pub memory: usize,
    /// Warp instructions that a block may run.
    pub steps: u64,
    /// Devices may use each other's memory.
    pub peers: bool,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            checked: false,
            lazy: false,
            seed: 0,
            devices: 1,
            memory: 16 << 30,
            steps: 1 << 32,
            peers: false,
        }
    }
}

/// A call that is going to fail, once.
#[derive(Clone, Debug)]
pub struct Injection {
    /// The name of a call; `any`; `alloc` for everything that allocates on a device.
    pub call: String,
    /// It fails when this reaches 0.
    pub left: u64,
    pub status: Status,
}

impl Config {
    /// Reads `checked,seed=3,lazy,fail=cuLaunchKernel:2,fail-alloc=1` and adds it to what is set. On an unknown
    /// word nothing changes.
    pub fn apply(&mut self, text: &str, injections: &mut Vec<Injection>) -> Result<(), String> {
        let (mut config, mut failures) = (self.clone(), vec![]);
        for word in text.split([',', ' ']).map(str::trim).filter(|word| !word.is_empty()) {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            let number = || value.parse::<u64>().map_err(|_| format!("`{word}`: a number is needed"));
            match key {
                "checked" => config.checked = true,
                "unchecked" => config.checked = false,
                "lazy" => config.lazy = true,
                "eager" => config.lazy = false,
                "peers" => config.peers = true,
                "seed" => config.seed = number()?,
                "devices" => config.devices = number()?.min(16) as u32,
                "memory" => config.memory = number()? as usize,
                "steps" => config.steps = number()?,
                "fail-alloc" => failures.push(injection("alloc", number()?, Status::OUT_OF_MEMORY)?),
                "fail" => {
                    let mut parts = value.split(':');
                    let call = parts.next().filter(|c| !c.is_empty());
                    let call = call.ok_or_else(|| format!("`{word}`: which call?"))?;
                    let read = |part: Option<&str>, or: u64| {
                        part.map_or(Ok(or), |p| {
                            p.parse().map_err(|_| format!("`{word}`: a number is needed"))
                        })
                    };
                    let nth = read(parts.next(), 1)?;
                    let status = Status(read(parts.next(), Status::UNKNOWN.0 as u64)? as i32);
                    failures.push(injection(call, nth, status)?);
                }
                _ => return Err(format!("`{word}` is no option of the emulator")),
            }
        }
        *self = config;
        injections.append(&mut failures);
        Ok(())
    }
}

fn injection(call: &str, nth: u64, status: Status) -> Result<Injection, String> {
    if nth == 0 {
        return Err(format!("{call}: calls are counted from 1"));
    }
    Ok(Injection { call: call.into(), left: nth, status })
}
