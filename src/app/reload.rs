//! Another config for the proxy that runs.

use std::sync::Arc;

use ziggurat_layers::metrics::{counter, gauge};

use super::{App, AppError, Current, certificate, lasting::Lasting, names};
use crate::{
    assemble::{arrange, assemble, probe},
    config::Config,
    upstreams::Upstreams,
};

impl App {
    /// Reads the config again, and the certificates. Bad ones are refused, and the old tower stays.
    pub(super) fn reload(&self) {
        let reloaded = self.try_reload();
        gauge(names::RELOAD_OK, &[]).set(f64::from(u8::from(reloaded.is_ok())));
        match reloaded {
            Ok(()) => {
                counter(names::RELOADS, &[("result", "ok")]).increment(1);
                tracing::info!("the config was read again and is in force");
            }
            Err(error) => {
                counter(names::RELOADS, &[("result", "refused")]).increment(1);
                tracing::error!("the new config is refused, the old one stays: {error}");
            }
        }
    }

    fn try_reload(&self) -> Result<(), AppError> {
        let (written, warnings) = self.run.config()?;
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        let certificate = certificate(&written.listen)?;
        let lasting = Lasting::of(&written);
        self.put_in_force(&mut self.current(), written)?;
        let changed = self.lasting.changed(&lasting);
        if !changed.is_empty() {
            let names = changed.join(", ");
            tracing::warn!("changes of {names} take effect at the next start only");
        }
        if let (Some(tls), Some(certificate)) = (&self.tls, certificate) {
            tls.set(certificate);
        }
        Ok(())
    }

    /// Looks after the addresses of names, until it is to stop: then nothing new begins.
    pub(super) async fn discover(self: Arc<Self>) {
        let discovery = self.discovery.clone();
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = discovery.watch(|| self.take_addresses()) => {}
        }
    }

    /// The endpoints are those of the newest addresses from now on; whatever else there is stays as it is. Says whether that was done.
    fn take_addresses(&self) -> bool {
        let mut current = self.current();
        // Who stops takes what there is under this lock: nobody would end what begins after that.
        if self.stop.is_cancelled() {
            return true;
        }
        let config = self.discovery.expand(&current.written);
        let known = &current.config.upstreams;
        let changed: Vec<_> = config
            .upstreams
            .iter()
            .filter(|u| !known.contains(u))
            .collect();
        let mut upstreams = current.upstreams.clone();
        for upstream in &changed {
            match upstreams.with(upstream, &self.tools) {
                Ok(new) => upstreams = new,
                Err(error) => {
                    let upstream = &upstream.name;
                    tracing::error!(upstream, %error, "its endpoints stay as they are for now");
                    return false;
                }
            }
        }
        arrange(
            &changed,
            &config,
            &upstreams,
            &current.standing,
            &self.tools,
        );
        let written = current.written.clone();
        self.take_over(&mut current, written, config, upstreams);
        true
    }

    fn put_in_force(&self, current: &mut Current, written: Config) -> Result<(), AppError> {
        let config = self.discovery.expand(&written);
        let upstreams = Upstreams::new(&config, &current.upstreams, &self.tools)?;
        let tower = assemble(
            &config,
            &upstreams,
            &self.kept,
            &current.standing,
            &self.drain,
            &self.tools,
        )?;
        self.live.swap(tower);
        upstreams.warm_up();
        self.discovery.set(&written);
        self.take_over(current, written, config, upstreams);
        Ok(())
    }

    /// What is in force is kept; what is gone ends.
    fn take_over(
        &self,
        current: &mut Current,
        written: Config,
        config: Config,
        upstreams: Upstreams,
    ) {
        let gone = current.upstreams.without(&upstreams);
        let limit = config.server.drain.limit;
        // The new probers take over before the old ones go, so that no endpoint forgets its state.
        let probers = probe(&config, &upstreams, &mut current.probers);
        let new = Current {
            probers,
            standing: std::mem::take(&mut current.standing),
            written,
            config,
            upstreams,
        };
        let old = std::mem::replace(current, new);
        for prober in old.probers {
            self.retiring.spawn(prober.close());
        }
        for service in gone {
            self.retiring
                .spawn(async move { service.retire(limit).await });
        }
    }
}
