//! Another config for the proxy that runs.

use ziggurat_layers::metrics::{counter, gauge};

use super::{App, AppError, Current, certificate, lasting::Lasting, names};
use crate::{
    assemble::{assemble, probe},
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
        let (config, warnings) = self.run.config()?;
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        let certificate = certificate(&config.listen)?;
        let mut current = self.current();
        let upstreams = Upstreams::new(&config, &current.upstreams, &self.tools)?;
        let tower = assemble(
            &config,
            &upstreams,
            &self.kept,
            &current.standing,
            &self.drain,
            &self.tools,
        )?;
        let changed = self.lasting.changed(&Lasting::of(&config));
        if !changed.is_empty() {
            let names = changed.join(", ");
            tracing::warn!("changes of {names} take effect at the next start only");
        }
        if let (Some(tls), Some(certificate)) = (&self.tls, certificate) {
            tls.set(certificate);
        }
        self.live.swap(tower);
        upstreams.warm_up();
        let gone = current.upstreams.without(&upstreams);
        let limit = config.server.drain.limit;
        // The new probers take over before the old ones go, so that no endpoint forgets its state.
        let new = Current {
            probers: probe(&config, &upstreams),
            standing: std::mem::take(&mut current.standing),
            config,
            upstreams,
        };
        let old = std::mem::replace(&mut *current, new);
        drop(current);
        for prober in old.probers {
            self.retiring.spawn(prober.close());
        }
        for service in gone {
            self.retiring
                .spawn(async move { service.retire(limit).await });
        }
        Ok(())
    }
}
