//! OpenTelemetry's own variables: which key each of them sets, which are refused, and the resource.
//!
//! They count as environment: above the file, below `IMAPTRACE__*` variables and flags. An empty one is as good as
//! unset (OpenTelemetry specification, "Environment Variable Specification"). Variables that are not named here are
//! left alone. Called by `source` and by `load`.

use percent_encoding::percent_decode_str;

use crate::{
    config::problem::{Place, Problem},
    telemetry::ResourceSettings,
};

type KeyPath = &'static [&'static str];

/// Variable, the key it sets, and whether its value is a bare number of milliseconds.
const SETTINGS: &[(&str, KeyPath, bool)] = &[
    ("OTEL_EXPORTER_OTLP_ENDPOINT", &["otlp", "endpoint"], false),
    ("OTEL_EXPORTER_OTLP_PROTOCOL", &["otlp", "protocol"], false),
    ("OTEL_EXPORTER_OTLP_HEADERS", &["otlp", "headers"], false),
    ("OTEL_EXPORTER_OTLP_TIMEOUT", &["otlp", "timeout"], true),
    ("OTEL_EXPORTER_OTLP_COMPRESSION", &["otlp", "compression"], false),
    ("OTEL_EXPORTER_OTLP_CERTIFICATE", &["otlp", "ca_file"], false),
    ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", &["otlp", "client_cert"], false),
    ("OTEL_EXPORTER_OTLP_CLIENT_KEY", &["otlp", "client_key"], false),
    ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &["otlp", "traces", "endpoint"], false),
    ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", &["otlp", "traces", "protocol"], false),
    ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", &["otlp", "traces", "headers"], false),
    ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", &["otlp", "traces", "timeout"], true),
    ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", &["otlp", "traces", "compression"], false),
    ("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", &["otlp", "traces", "ca_file"], false),
    ("OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE", &["otlp", "traces", "client_cert"], false),
    ("OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY", &["otlp", "traces", "client_key"], false),
    ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", &["otlp", "metrics", "endpoint"], false),
    ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", &["otlp", "metrics", "protocol"], false),
    ("OTEL_EXPORTER_OTLP_METRICS_HEADERS", &["otlp", "metrics", "headers"], false),
    ("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", &["otlp", "metrics", "timeout"], true),
    ("OTEL_EXPORTER_OTLP_METRICS_COMPRESSION", &["otlp", "metrics", "compression"], false),
    ("OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE", &["otlp", "metrics", "ca_file"], false),
    ("OTEL_EXPORTER_OTLP_METRICS_CLIENT_CERTIFICATE", &["otlp", "metrics", "client_cert"], false),
    ("OTEL_EXPORTER_OTLP_METRICS_CLIENT_KEY", &["otlp", "metrics", "client_key"], false),
    ("OTEL_METRIC_EXPORT_INTERVAL", &["metrics", "export_interval"], true),
];

const SERVICE_NAME: &str = "OTEL_SERVICE_NAME";
const RESOURCE_ATTRIBUTES: &str = "OTEL_RESOURCE_ATTRIBUTES";

const SAMPLER: &str =
    "every run is a trace of its own and all are kept: a sampled-out run would be a gap in the measurement";
const BATCH: &str =
    "runs wait in imaptrace's own queue, not in the SDK's batch processor, so this would have no effect";

/// Whether a variable of this name means something here.
pub(crate) fn is_read(variable: &str) -> bool {
    SETTINGS.iter().any(|(name, ..)| *name == variable) || matches!(variable, SERVICE_NAME | RESOURCE_ATTRIBUTES)
}

/// The settings that the variables make: variable, key and raw value. Refused ones become problems.
pub(crate) fn settings<'a>(
    environment: &'a [(String, String)],
    problems: &mut Vec<Problem>,
) -> Vec<(&'a str, KeyPath, String)> {
    let mut settings = Vec::new();
    for (variable, value) in environment.iter().filter(|(_, value)| !value.is_empty()) {
        let refusal = if variable.starts_with("OTEL_TRACES_SAMPLER") {
            Some(SAMPLER)
        } else if variable.starts_with("OTEL_BSP_") {
            Some(BATCH)
        } else {
            None
        };
        if let Some(reason) = refusal {
            problems.push(problem(variable, format!("not taken: {reason}"), "unset it"));
        }
        let Some((_, key, millis)) = SETTINGS.iter().find(|(name, ..)| name == variable) else { continue };
        if !millis {
            settings.push((variable.as_str(), *key, value.clone()));
        } else if value.bytes().all(|byte| byte.is_ascii_digit()) {
            settings.push((variable.as_str(), *key, format!("{value}ms")));
        } else {
            let what = format!("{value:?} is not a whole number of milliseconds: expected digits alone, such as 10000");
            problems.push(problem(variable, what, "OpenTelemetry's variables take no unit: 10000 is ten seconds"));
        }
    }
    settings
}

/// Reads `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES`; their `service.name` is no attribute of the result.
pub(crate) fn resource(environment: &[(String, String)], problems: &mut Vec<Problem>) -> ResourceSettings {
    let get = |name| environment.iter().rev().find(|(key, value)| key == name && !value.is_empty());
    let mut service_name = None;
    let mut attributes = Vec::new();
    if let Some((variable, value)) = get(RESOURCE_ATTRIBUTES) {
        match pairs(value) {
            Some(pairs) => attributes = pairs,
            None => problems.push(problem(
                variable,
                "cannot be read: expected key=value pairs with commas between them, percent-encoded UTF-8".to_owned(),
                "write a comma inside a value as %2C, a % as %25",
            )),
        }
        attributes.retain(|(key, value)| {
            let is_name = key == "service.name";
            if is_name {
                service_name = Some(value.clone());
            }
            !is_name
        });
    }
    if let Some((_, value)) = get(SERVICE_NAME) {
        service_name = Some(value.clone());
    }
    ResourceSettings { service_name, attributes, ..ResourceSettings::default() }
}

/// `key=value,key=value` with percent-encoded values, as OTLP headers and resource attributes are written.
pub(crate) fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    let decode = |text: &str| Some(percent_decode_str(text.trim()).decode_utf8().ok()?.into_owned());
    text.split(',')
        .filter(|pair| !pair.trim().is_empty())
        .map(|pair| {
            let (key, value) = pair.split_once('=')?;
            let key = decode(key)?;
            (!key.is_empty()).then_some((key, decode(value)?))
        })
        .collect()
}

fn problem(variable: &str, what: String, help: &str) -> Problem {
    Problem { place: Place::Variable(variable.to_owned()), key: String::new(), what, help: Some(help.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn the_service_name_variable_beats_the_attribute_and_values_are_decoded() {
        let mut problems = Vec::new();
        let attributes = ("OTEL_RESOURCE_ATTRIBUTES", "service.name=b, team=a%2Cb%20c,site=m%C3%BCnchen");
        let resource = resource(&environment(&[attributes, ("OTEL_SERVICE_NAME", "a")]), &mut problems);
        assert_eq!(resource.service_name.as_deref(), Some("a"));
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(resource.attributes, [pair("team", "a,b c"), pair("site", "münchen")]);
        let alone = super::resource(&environment(&[attributes]), &mut problems);
        assert_eq!(alone.service_name.as_deref(), Some("b"));
        assert_eq!(super::resource(&[], &mut problems).service_name, None);
        assert_eq!(problems, []);
    }

    #[test]
    fn broken_attributes_are_a_problem() {
        let mut problems = Vec::new();
        resource(&environment(&[("OTEL_RESOURCE_ATTRIBUTES", "team")]), &mut problems);
        assert_eq!(problems.len(), 1);
    }

    #[test]
    fn an_empty_variable_is_as_good_as_unset() {
        let mut problems = Vec::new();
        let set = environment(&[("OTEL_EXPORTER_OTLP_ENDPOINT", ""), ("OTEL_TRACES_SAMPLER", "")]);
        assert!(settings(&set, &mut problems).is_empty() && problems.is_empty());
    }
}
