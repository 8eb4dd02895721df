{{/*
The bundled Consul. A single server: its own ports stay on loopback, only the HTTP API is reachable. Consul's limit of
connections per client address is raised, since every service of a node may come from one address.
*/}}
{{- define "plinth.consul.config" -}}
{{- $config := dict
  "server" true
  "bootstrap_expect" 1
  "node_name" (printf "%s-consul" (include "plinth.fullname" .))
  "datacenter" (default "dc1" .Values.consul.datacenter)
  "data_dir" "/consul/data"
  "bind_addr" "127.0.0.1"
  "client_addr" "0.0.0.0"
  "ports" (dict "dns" -1 "serf_wan" -1)
  "connect" (dict "enabled" true)
  "limits" (dict "http_max_conns_per_client" 2000)
  "performance" (dict "raft_multiplier" 1)
  "leave_on_terminate" false
  "disable_update_check" true
  "log_level" "WARN"
-}}
{{- if and (eq .Values.mtls.mode "connect") .Values.mtls.intentions.enabled -}}
{{- $_ := set $config "config_entries" (dict "bootstrap" (include "plinth.intentions" . | fromYamlArray)) -}}
{{- end -}}
{{ toPrettyJson $config }}
{{- end -}}

{{/* Consul Connect's intentions as config entries: who may call which service; everybody else is refused. */}}
{{- define "plinth.intentions" -}}
{{- $root := . -}}
{{- $facts := include "plinth.component" . | fromYaml -}}
{{- range $component, $callers := include "plinth.callers" . | fromYaml }}
- Kind: service-intentions
  Name: {{ index $facts $component "service" }}
  Sources:
    {{- range $callers }}
    - { Name: {{ index $facts . "service" }}, Action: allow }
    {{- end }}
    {{- if ne $component "gateway" }}
    {{- range $root.Values.mtls.intentions.allow }}
    - { Name: {{ . | quote }}, Action: allow }
    {{- end }}
    {{- end }}
    - { Name: "*", Action: deny }
{{- end }}
{{- end -}}
