{{- define "plinth.serverCallers" -}}
consul: [registry, config, health, gateway]
postgresql: [config]
rabbitmq: [config]
redis: [gateway]
{{- end -}}

{{- define "plinth.egress.dns" -}}
- ports:
    - { port: 53, protocol: UDP }
    - { port: 53, protocol: TCP }
  to:
    {{- toYaml .Values.networkPolicy.dns | nindent 4 }}
{{- end -}}

{{/* To Consul, PostgreSQL, Redis or RabbitMQ: to the bundled pod, else to the given peers, else anywhere on that port. */}}
{{- define "plinth.egress.server" -}}
{{- $own := index .root.Values .server -}}
{{- if eq $own.mode "bundled" -}}
- ports: [{ port: {{ index (dict "consul" 8500 "postgresql" 5432 "redis" 6379 "rabbitmq" 5672) .server }}, protocol: TCP }]
  to:
    - podSelector:
        matchLabels:
          {{- include "plinth.selector" (dict "root" .root "component" .server) | nindent 10 }}
{{- else -}}
- ports: [{ port: {{ if eq .server "consul" }}{{ include "plinth.consul.port" .root }}{{ else }}{{ int $own.port }}{{ end }}, protocol: TCP }]
  {{- with $own.peers }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}
{{- end -}}

{{- define "plinth.consul.port" -}}
{{- $address := include "plinth.consul.address" . -}}
{{- $port := regexFind ":[0-9]+$" (trimSuffix "/" $address) | trimPrefix ":" -}}
{{- default (ternary "443" "80" (hasPrefix "https:" $address)) $port -}}
{{- end -}}
