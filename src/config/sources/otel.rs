//! OpenTelemetry's own variables: the key that each one sets, those that are refused, and the resource.
//!
//! They rank above the file and below `IMAPTRACE__*` variables and flags. An empty one counts as unset (OpenTelemetry
//! specification, "Environment Variable Specification"). Other variables are ignored. Called by `tree` and `load`.

use percent_encoding::percent_decode_str;

use crate::{
    config::problem::{Place, Problem},
    telemetry::ResourceSettings,
};

type KeyPath = Vec<&'static str>;

/// The ends of `OTEL_EXPORTER_OTLP_*`, `OTEL_EXPORTER_OTLP_TRACES_*` and `OTEL_EXPORTER_OTLP_METRICS_*`, with the key that each
/// sets.
const EXPORTER: [(&str, &str); 8] = [
    ("ENDPOINT", "endpoint"),
    ("PROTOCOL", "protocol"),
    ("HEADERS", "headers"),
    ("TIMEOUT", "timeout"),
    ("COMPRESSION", "compression"),
    ("CERTIFICATE", "ca_file"),
    ("CLIENT_CERTIFICATE", "client_cert"),
    ("CLIENT_KEY", "client_key"),
];

/// The key that a variable sets, if any.
fn key(variable: &str) -> Option<KeyPath> {
    if variable == "OTEL_METRIC_EXPORT_INTERVAL" {
        return Some(vec!["metrics", "export_interval"]);
    }
    let rest = variable.strip_prefix("OTEL_EXPORTER_OTLP_")?;
    let signals = [("TRACES_", Some("traces")), ("METRICS_", Some("metrics")), ("", None)];
    let (end, signal) = signals.into_iter().find_map(|(start, signal)| Some((rest.strip_prefix(start)?, signal)))?;
    let (_, key) = EXPORTER.into_iter().find(|(name, _)| *name == end)?;
    Some(["otlp"].into_iter().chain(signal).chain([key]).collect())
}

const SERVICE_NAME: &str = "OTEL_SERVICE_NAME";
const RESOURCE_ATTRIBUTES: &str = "OTEL_RESOURCE_ATTRIBUTES";

/// The start of refused variables, and the reason.
const REFUSED: [(&str, &str); 2] = [
    (
        "OTEL_TRACES_SAMPLER",
        "every run is a trace of its own and all are kept: a sampled-out run would be a gap in the measurement",
    ),
    ("OTEL_BSP_", "runs wait in imaptrace's own queue, not in the SDK's batch processor, so this would have no effect"),
];

/// Whether a variable of this name is read.
pub(crate) fn is_read(variable: &str) -> bool {
    key(variable).is_some() || matches!(variable, SERVICE_NAME | RESOURCE_ATTRIBUTES)
}

/// The variable, the key and the raw value of each setting. Refused ones become problems.
pub(crate) fn settings<'a>(
    environment: &'a [(String, String)],
    problems: &mut Vec<Problem>,
) -> Vec<(&'a str, KeyPath, String)> {
    let mut settings = Vec::new();
    for (variable, value) in environment.iter().filter(|(_, value)| !value.is_empty()) {
        for (_, reason) in REFUSED.iter().filter(|(start, _)| variable.starts_with(start)) {
            problems.push(problem(variable, format!("not taken: {reason}"), "unset it"));
        }
        let Some(key) = key(variable) else { continue };
        if !matches!(key.last(), Some(&("timeout" | "export_interval"))) {
            settings.push((variable.as_str(), key, value.clone()));
        } else if value.bytes().all(|byte| byte.is_ascii_digit()) {
            settings.push((variable.as_str(), key, format!("{value}ms")));
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
        let names = attributes.extract_if(.., |(key, _)| key == "service.name");
        service_name = names.last().map(|(_, name)| name);
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
    Problem::new(Place::Variable(variable.to_owned()), what, help)
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
