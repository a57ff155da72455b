-- Logging
jarvis.log("Message")  -- Log to console

-- HTTP calls
jarvis.http.get(url)
jarvis.http.post(url, data)

-- Configuration
jarvis.config.get(key)
jarvis.config.set(key, value)

-- State persistence
jarvis.state.set(key, value)
jarvis.state.get(key)

-- Broadcast events
jarvis.events.emit(event_name, data)
jarvis.events.on(event_name, callback)
