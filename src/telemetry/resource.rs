//! The resource of all telemetry (docs/telemetry.md).
//!
//! Not made by the SDK's detectors: there `service.name` in `OTEL_RESOURCE_ATTRIBUTES` takes precedence over
//! `OTEL_SERVICE_NAME`, and values are not percent-decoded. Reads no environment: the configuration fills in
//! [`ResourceSettings`].

use opentelemetry::KeyValue;
use opentelemetry_sdk::{Resource, resource::TelemetryResourceDetector};

use super::names;

/// What the resource is made of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ResourceSettings {
    /// `OTEL_SERVICE_NAME`. Takes precedence over a `service.name` among the attributes; the default is `imaptrace`.
    pub service_name: Option<String>,
    /// `[agent] instance`. Without it, the host's name.
    pub instance: Option<String>,
    /// The host's name.
    pub host_name: Option<String>,
    /// `OTEL_RESOURCE_ATTRIBUTES`, percent-decoded. They take precedence over the host's name and the defaults.
    pub attributes: Vec<(String, String)>,
}

/// The resource of all spans and metrics. Stable over restarts, so that metric series continue.
pub fn resource(settings: &ResourceSettings) -> Resource {
    let mut pairs = vec![
        (names::SERVICE_NAME, Some("imaptrace".to_owned())),
        (names::SERVICE_VERSION, Some(env!("CARGO_PKG_VERSION").to_owned())),
        (names::SERVICE_INSTANCE_ID, settings.host_name.clone()),
        (names::HOST_NAME, settings.host_name.clone()),
    ];
    pairs.extend(settings.attributes.iter().map(|(key, value)| (key.as_str(), Some(value.clone()))));
    pairs.push((names::SERVICE_NAME, settings.service_name.clone()));
    pairs.push((names::SERVICE_INSTANCE_ID, settings.instance.clone()));
    // The last one of a key counts.
    Resource::builder_empty()
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_attributes(
            pairs.into_iter().filter_map(|(key, value)| value.map(|value| KeyValue::new(key.to_owned(), value))),
        )
        .build()
}

/// The resource of the spans that the mail server on this host reported.
pub fn server_resource(service_name: &str, host_name: &str) -> Resource {
    let pairs = [(names::SERVICE_NAME, service_name), (names::HOST_NAME, host_name)];
    Resource::builder_empty()
        .with_attributes(pairs.into_iter().map(|(key, value)| KeyValue::new(key, value.to_owned())))
        .build()
}

#[cfg(test)]
mod tests {
    use opentelemetry::Key;

    use super::*;

    fn get(settings: &ResourceSettings, key: &'static str) -> Option<String> {
        resource(settings).get(&Key::new(key)).map(|value| value.to_string())
    }

    #[test]
    fn defaults_are_the_host_and_our_own_name() {
        let settings = ResourceSettings { host_name: Some("probe7".into()), ..Default::default() };
        assert_eq!(get(&settings, names::SERVICE_NAME).as_deref(), Some("imaptrace"));
        assert_eq!(get(&settings, names::SERVICE_VERSION).as_deref(), Some(env!("CARGO_PKG_VERSION")));
        assert_eq!(get(&settings, names::SERVICE_INSTANCE_ID).as_deref(), Some("probe7"));
        assert_eq!(get(&settings, names::HOST_NAME).as_deref(), Some("probe7"));
        assert_eq!(get(&settings, names::TELEMETRY_SDK_LANGUAGE).as_deref(), Some("rust"));
    }

    #[test]
    fn otel_service_name_and_the_instance_take_precedence_over_the_attributes() {
        let settings = ResourceSettings {
            service_name: Some("mail-probe".into()),
            instance: Some("rack-a3".into()),
            host_name: Some("probe7".into()),
            attributes: vec![
                ("service.name".into(), "wrong".into()),
                ("service.instance.id".into(), "wrong".into()),
                ("host.name".into(), "other".into()),
                ("deployment.environment.name".into(), "test, two".into()),
            ],
        };
        assert_eq!(get(&settings, names::SERVICE_NAME).as_deref(), Some("mail-probe"));
        assert_eq!(get(&settings, names::SERVICE_INSTANCE_ID).as_deref(), Some("rack-a3"));
        assert_eq!(get(&settings, names::HOST_NAME).as_deref(), Some("other"));
        assert_eq!(get(&settings, "deployment.environment.name").as_deref(), Some("test, two"));
    }

    #[test]
    fn a_service_name_among_the_attributes_counts_without_otel_service_name() {
        let settings =
            ResourceSettings { attributes: vec![("service.name".into(), "given".into())], ..Default::default() };
        assert_eq!(get(&settings, names::SERVICE_NAME).as_deref(), Some("given"));
    }
}
