//! The rights of one plugin: its permissions, and what none has whatever its permissions. The
//! worker asks to tell the plugin at once, the bridge asks again.

use super::{
    permission::Permission,
    topic::{BadTopic, Filter, Topic},
};

/// The rights of one plugin.
#[derive(Debug, Clone)]
pub struct Rights {
    plugin: String,
    permissions: Vec<Permission>,
    /// Where only the bridge speaks.
    answers: [Filter; 2],
    /// What comes in for the bridge. A second subscription to the same filter would take the bridge's own
    /// away (MQTT 5 §3.8.4).
    requests: Filter,
}

impl Rights {
    /// The rights that a plugin's permissions give below the bridge's own first topic levels.
    ///
    /// # Errors
    /// When the base is so long or deep that no filter can lie below it.
    pub fn of(plugin: &str, permissions: Vec<Permission>, base: &Topic) -> Result<Self, BadTopic> {
        let answers =
            [Filter::parse(&format!("{base}/bridge/#"))?, Filter::parse(&format!("{base}/+/response/#"))?];
        let requests = Filter::parse(&format!("{base}/+/request/#"))?;
        Ok(Self { plugin: plugin.to_owned(), permissions, answers, requests })
    }

    /// All permissions, also those that are not about MQTT.
    #[must_use]
    pub fn permissions(&self) -> &[Permission] {
        &self.permissions
    }

    /// The bridge's own requests, where a filter lies inside them.
    #[must_use]
    pub fn requests_around(&self, filter: &Filter) -> Option<&Filter> {
        Some(&self.requests).filter(|requests| requests.covers(filter))
    }

    /// Whether the plugin may publish to a topic.
    ///
    /// # Errors
    /// A sentence that says why not, and what to add to its header where that helps.
    pub fn check_publish(&self, topic: &Topic) -> Result<(), String> {
        let plugin = &self.plugin;
        if let Some(filter) = self.answers.iter().find(|filter| filter.matches(topic.as_str())) {
            return Err(format!(
                "plugin `{plugin}` may not publish to `{topic}`: only the bridge publishes to `{filter}`"
            ));
        }
        let allows =
            |p: &Permission| matches!(p, Permission::Publish(filter) if filter.matches(topic.as_str()));
        if self.permissions.iter().any(allows) {
            return Ok(());
        }
        Err(format!(
            "plugin `{plugin}` may not publish to `{topic}`: add `mqtt.publish:{topic}` to its @permissions"
        ))
    }

    /// Whether the plugin may subscribe to a filter.
    ///
    /// # Errors
    /// As for [`Rights::check_publish`].
    pub fn check_subscribe(&self, filter: &Filter) -> Result<(), String> {
        let plugin = &self.plugin;
        if let Some(requests) = self.requests_around(filter) {
            return Err(format!(
                "plugin `{plugin}` may not subscribe to `{filter}`: what comes in on `{requests}` is for the \
                 bridge, use a hook such as on_command"
            ));
        }
        let allows = |p: &Permission| matches!(p, Permission::Subscribe(allowed) if allowed.covers(filter));
        if self.permissions.iter().any(allows) {
            return Ok(());
        }
        Err(format!(
            "plugin `{plugin}` may not subscribe to `{filter}`: add `mqtt.subscribe:{filter}` to its @permissions"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::{Filter, Permission, Rights, Topic};

    #[test]
    fn no_permission_reaches_what_is_the_bridges_own() {
        let all = ["mqtt.publish:#", "mqtt.subscribe:#"].map(|text| Permission::parse(text).unwrap());
        let rights = Rights::of("x", all.to_vec(), &Topic::parse("home/j").unwrap()).unwrap();
        let publish = |topic: &str| rights.check_publish(&Topic::parse(topic).unwrap());
        for own in ["home/j/bridge", "home/j/bridge/state", "home/j/chat/response", "home/j/x/response/y/z"] {
            assert!(publish(own).unwrap_err().contains("only the bridge publishes to"), "{own}");
        }
        for other in ["home/j/command/request/x", "home/j/event/x", "j/bridge/state"] {
            assert_eq!(publish(other), Ok(()), "{other}");
        }
        let subscribe = |filter: &str| rights.check_subscribe(&Filter::parse(filter).unwrap());
        for own in ["home/j/+/request/#", "home/j/chat/request", "home/j/command/request/+"] {
            assert!(subscribe(own).unwrap_err().contains("is for the bridge"), "{own}");
        }
        for other in ["#", "home/j/#", "home/j/event/+/+"] {
            assert_eq!(subscribe(other), Ok(()), "{other}");
        }
    }

    #[test]
    fn a_refusal_says_what_to_add() {
        let rights = Rights::of("x", Vec::new(), &Topic::default()).unwrap();
        let error = rights.check_publish(&Topic::parse("a/b").unwrap()).unwrap_err();
        assert!(error.ends_with("add `mqtt.publish:a/b` to its @permissions"), "{error}");
        let error = rights.check_subscribe(&Filter::parse("a/#").unwrap()).unwrap_err();
        assert!(error.ends_with("add `mqtt.subscribe:a/#` to its @permissions"), "{error}");
    }
}
