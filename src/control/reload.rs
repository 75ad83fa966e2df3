//! A reload: the config file is read again and applied, whole or not at all.
//!
//! In: a request of the operator, SIGHUP. Out: an answer for the operator and the log; the new config in force. The comparison
//! of the two configs is `config_diff.rs`.

use crate::config::Config;
use crate::control::backends::backend::Backend;
use crate::control::backends::health_checker;
use crate::control::config_diff::{self, Changes};
use crate::control::state::{Control, LastReload, NOT_IN_FORCE};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::rc::Rc;
use std::time::{Instant, SystemTime};

/// Reads the config file again and applies it, whole or not at all. Either answer is for the operator.
pub async fn reload(control: &Rc<Control>) -> Result<String, String> {
    control.notifier.reloading();
    let result = try_reload(control).await;
    control.notifier.ready();
    let message = match &result {
        Ok(changes) => changes.to_string(),
        Err(refusal) => refusal.clone(),
    };
    // Each change, and each error, is an event of its own.
    for (index, line) in message.lines().map(str::trim_start).enumerate() {
        match &result {
            Ok(_) if index == 0 => tracing::info!(reload = "applied", "{line}"),
            Ok(_) => tracing::info!(reload = "applied", "reload: {line}"),
            Err(_) => tracing::error!(reload = "refused", "reload: {line}"),
        }
    }
    if result.is_ok() {
        control.config_since.set(SystemTime::now());
    }
    let last = LastReload { at: Instant::now(), message: message.clone(), succeeded: result.is_ok() };
    *control.last_reload.borrow_mut() = Some(last);
    result.map(|_| message)
}

async fn try_reload(control: &Rc<Control>) -> Result<Changes, String> {
    let Some(path) = control.options.config_path.clone() else {
        return Err("refused: started without a config file".to_owned());
    };
    let reading = control.config_reads.begin();
    let loaded = control.config_reads.read(&path).await.map_err(|error| error.to_string())?;
    let mut loaded = loaded.map_err(|error| format!("refused, nothing was changed: {error}"))?;
    // One after the other: the second sees what the first left.
    let _alone = control.reloading.lock().await;
    if control.config_reads.is_superseded(reading) {
        return Err("superseded by a reload that was requested later".to_owned());
    }
    if control.has_given_sockets {
        // Then the passed sockets determine the number, not the file.
        loaded.config.workers = control.worker_handles.len();
    }
    let mut changes = config_diff::compare(&control.config(), &loaded.config, control.budget.backends)
        .map_err(|refusal| refusal.by_keys_of(loaded.format).to_string())?;
    let backends = control.backend_set.for_config(&loaded.config);
    let added = control.backend_set.added(&backends);
    control.look_up_added(&added).await;
    control.mark_own();
    control
        .refuse_loops(&loaded.config, &backends)
        .map_err(|loops| format!("refused, nothing was changed: {}", loops.message))?;
    refuse_reload_at_end(control)?;
    for notice in &loaded.notices {
        tracing::warn!("config: {notice}");
    }
    control.config_reads.carried_out(reading);
    *control.listing.borrow_mut() = loaded.listing;
    apply(control, loaded.config, backends, added);
    if !control.in_force().await {
        changes.lines.push(NOT_IN_FORCE.trim_start_matches("; ").to_owned());
    }
    Ok(changes)
}

/// A process that is about to end accepts no config; one that another has taken over from passes the request on.
fn refuse_reload_at_end(control: &Control) -> Result<(), String> {
    if let Some(pid) = control.taken_over_by.get() {
        let _ = kill(Pid::from_raw(pid), Signal::SIGHUP);
        return Err(format!(
            "forwarded to process {pid}, which has taken over; see its status and log for the result"
        ));
    }
    if control.is_stopping() {
        return Err("refused: stopping".to_owned());
    }
    Ok(())
}

/// Puts `config` in force: backends of the same identity keep their figures and their health.
fn apply(control: &Rc<Control>, config: Config, backends: Vec<Rc<Backend>>, added: Vec<Rc<Backend>>) {
    control.reloads.set(control.reloads.get() + 1);
    control.backend_set.replace(config, backends);
    control.mark_own();
    control.guard();
    control.publish();
    control.reconfigured.notify_one();
    control.warn_if_none_lives();
    for backend in added {
        health_checker::start(control, backend);
    }
}
