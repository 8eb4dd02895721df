{{/*
The environment of a service: settings by their own names. Values are plain; secrets are files.
(dict "root" $ "component" "registry")
*/}}
{{- define "plinth.env" -}}
{{- $root := .root -}}
{{- $v := $root.Values -}}
{{- $own := index $v .component -}}
{{- $facts := index (include "plinth.component" $root | fromYaml) .component -}}
{{- $p := $facts.prefix -}}
- name: POD_IP
  valueFrom: { fieldRef: { fieldPath: status.podIP } }
{{- if eq .component "gateway" }}
- name: {{ $p }}PROXY_LISTEN
  value: {{ printf "%s:8000" $v.listenAddress | quote }}
{{- if $own.tls.existingSecret }}
- name: {{ $p }}PROXY_TLS_LISTEN
  value: {{ printf "%s:8443" $v.listenAddress | quote }}
- name: {{ $p }}PROXY_TLS_CERT
  value: /etc/plinth/proxy-tls/tls.crt
- name: {{ $p }}PROXY_TLS_KEY
  value: /etc/plinth/proxy-tls/tls.key
{{- end }}
- name: {{ $p }}ADMIN_LISTEN
  value: {{ ternary (printf "%s:8001" $v.listenAddress) "127.0.0.1:8001" $own.admin.enabled | quote }}
{{- if eq $own.config.source "config-service" }}
- name: {{ $p }}CONFIG_SERVICE__URL
  value: {{ include "plinth.config.url" $root | quote }}
- name: {{ $p }}CONFIG_SERVICE__NAMESPACE
  value: {{ $own.config.service.namespace | quote }}
- name: {{ $p }}CONFIG_SERVICE__ENVIRONMENT
  value: {{ $own.config.service.environment | quote }}
- name: {{ $p }}CONFIG_SERVICE__KEY
  value: {{ $own.config.service.key | quote }}
- name: {{ $p }}CONFIG_SERVICE__LAST_GOOD
  value: /var/lib/plinth/last-good.yml
{{- else }}
- name: {{ $p }}CONFIG
  value: /etc/plinth/kong/kong.yml
{{- end }}
{{- with $own.trustedIps }}
- name: {{ $p }}TRUSTED_IPS
  value: {{ join "," . | quote }}
{{- end }}
{{- if or (eq $v.redis.mode "bundled") (and (eq $v.redis.mode "external") $v.redis.existingSecret) }}
# For {vault://env/redis-password} in kong.yml: the only place that Kong's format can take a secret from.
- name: REDIS_PASSWORD
  valueFrom: { secretKeyRef: { name: {{ include "plinth.redis.secret" $root }}, key: {{ $v.redis.secretKey }} } }
{{- end }}
{{- else }}
- name: {{ $p }}LISTEN
  value: {{ printf "%s:%d" $v.listenAddress (int $facts.port) | quote }}
{{- end }}
- name: {{ $p }}STATUS_LISTEN
  value: {{ printf "%s:8007" $v.listenAddress | quote }}
- name: {{ $p }}LOG__FORMAT
  value: {{ $v.log.format }}
- name: {{ $p }}LOG__LEVEL
  value: {{ $v.log.level | quote }}
- name: {{ $p }}SHUTDOWN__DRAIN_DELAY
  value: {{ include "plinth.drainDelay" $root }}s
- name: {{ $p }}SHUTDOWN__TIMEOUT
  value: {{ include "plinth.shutdownTimeout" $root }}s
{{- with $v.telemetry.otlpEndpoint }}
- name: {{ $p }}TELEMETRY__OTLP_ENDPOINT
  value: {{ . | quote }}
- name: {{ $p }}TELEMETRY__SAMPLE_RATIO
  value: {{ $v.telemetry.sampleRatio | quote }}
{{- end }}
- name: {{ $p }}CONSUL__ADDRESS
  value: {{ include "plinth.consul.address" $root | quote }}
{{- with $v.consul.datacenter }}
- name: {{ $p }}CONSUL__DATACENTER
  value: {{ . | quote }}
{{- end }}
{{- if $v.consul.token.existingSecret }}
- name: {{ $p }}CONSUL__TOKEN_FILE
  value: /etc/plinth/consul-token/{{ index $v.consul.token.keys .component }}
{{- end }}
{{- if $v.consul.tls.existingSecret }}
- name: {{ $p }}CONSUL__CA_CERT
  value: /etc/plinth/consul-tls/ca.crt
{{- if $v.consul.tls.clientCertificate }}
- name: {{ $p }}CONSUL__CLIENT_CERT
  value: /etc/plinth/consul-tls/tls.crt
- name: {{ $p }}CONSUL__CLIENT_KEY
  value: /etc/plinth/consul-tls/tls.key
{{- end }}
{{- end }}
{{- if $v.auth.jwksUrl }}
- name: {{ $p }}AUTH__JWKS_URL
  value: {{ $v.auth.jwksUrl | quote }}
{{- else }}
- name: {{ $p }}AUTH__KEY_FILE
  value: /etc/plinth/auth/auth.pub.pem
{{- end }}
- name: {{ $p }}AUTH__ISSUER
  value: {{ $v.auth.issuer | quote }}
- name: {{ $p }}AUTH__AUDIENCE
  value: {{ $v.auth.audience | quote }}
{{- $token := include "plinth.token" . | fromYaml }}
{{- if $token.name }}
- name: {{ $p }}{{ $token.variable }}
  value: /etc/plinth/token/{{ $token.name }}
{{- end }}
{{- if or (eq $v.mtls.mode "connect") (eq $v.mtls.mode "files") }}
- name: {{ $p }}MTLS__SOURCE
  value: {{ $v.mtls.mode }}
- name: {{ $p }}MTLS__CLIENTS
  value: {{ $v.mtls.clients }}
{{- if eq $v.mtls.mode "files" }}
- name: {{ $p }}MTLS__CERT
  value: /etc/plinth/mtls/tls.crt
- name: {{ $p }}MTLS__KEY
  value: /etc/plinth/mtls/tls.key
- name: {{ $p }}MTLS__CA
  value: /etc/plinth/mtls/ca.crt
{{- with include "plinth.mtls.allowed" . }}
- name: {{ $p }}MTLS__ALLOW
  value: {{ . | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- if eq .component "config" }}
{{- if eq $v.postgresql.mode "none" }}
- name: {{ $p }}DATA_DIR
  value: /data
{{- else }}
- name: {{ $p }}DATABASE__URL_FILE
  value: /etc/plinth/database/{{ $v.postgresql.secretKey }}
{{- end }}
{{- if ne $v.rabbitmq.mode "none" }}
- name: {{ $p }}EVENTS__URL_FILE
  value: /etc/plinth/events/{{ $v.rabbitmq.secretKey }}
- name: {{ $p }}EVENTS__EXCHANGE
  value: {{ $v.rabbitmq.exchange | quote }}
{{- end }}
{{- end }}
{{- range $name, $value := $own.settings }}
- name: {{ $p }}{{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- with $own.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Mounts of a service; the volumes of the same names follow below. */}}
{{- define "plinth.mounts" -}}
{{- $v := .root.Values -}}
{{- $own := index $v .component -}}
{{- $token := include "plinth.token" . | fromYaml -}}
{{- if not $v.auth.jwksUrl }}
- { name: auth, mountPath: /etc/plinth/auth, readOnly: true }
{{- end }}
{{- if $token.name }}
- { name: token, mountPath: /etc/plinth/token, readOnly: true }
{{- end }}
{{- if $v.consul.token.existingSecret }}
- { name: consul-token, mountPath: /etc/plinth/consul-token, readOnly: true }
{{- end }}
{{- if $v.consul.tls.existingSecret }}
- { name: consul-tls, mountPath: /etc/plinth/consul-tls, readOnly: true }
{{- end }}
{{- if eq $v.mtls.mode "files" }}
- { name: mtls, mountPath: /etc/plinth/mtls, readOnly: true }
{{- end }}
{{- if eq .component "config" }}
{{- if eq $v.postgresql.mode "none" }}
- { name: data, mountPath: /data }
{{- else }}
- { name: database, mountPath: /etc/plinth/database, readOnly: true }
{{- end }}
{{- if ne $v.rabbitmq.mode "none" }}
- { name: events, mountPath: /etc/plinth/events, readOnly: true }
{{- end }}
{{- end }}
{{- if eq .component "gateway" }}
{{- if eq $own.config.source "config-service" }}
- { name: last-good, mountPath: /var/lib/plinth }
{{- else }}
- { name: kong, mountPath: /etc/plinth/kong, readOnly: true }
{{- end }}
{{- if $own.tls.existingSecret }}
- { name: proxy-tls, mountPath: /etc/plinth/proxy-tls, readOnly: true }
{{- end }}
- { name: logs, mountPath: /var/log/kong }
{{- end }}
{{- with $own.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "plinth.volumes" -}}
{{- $root := .root -}}
{{- $v := $root.Values -}}
{{- $own := index $v .component -}}
{{- $full := include "plinth.fullname" $root -}}
{{- $token := include "plinth.token" . | fromYaml -}}
{{- if not $v.auth.jwksUrl }}
- name: auth
  secret:
    secretName: {{ include "plinth.auth.secret" $root }}
    defaultMode: 0440
    items: [{ key: {{ $v.auth.secretKey }}, path: auth.pub.pem }]
{{- end }}
{{- if $token.name }}
{{- if $v.auth.tokens.existingSecret }}
- name: token
  secret:
    secretName: {{ $v.auth.tokens.existingSecret }}
    defaultMode: 0440
    items: [{ key: {{ $token.name }}, path: {{ $token.name }} }]
{{- else }}
- name: token
  emptyDir: { medium: Memory, sizeLimit: 1Mi }
- name: signing
  secret:
    secretName: {{ include "plinth.signing.secret" $root }}
    defaultMode: 0440
    items: [{ key: {{ $v.auth.signing.secretKey }}, path: token-key.pem }]
{{- end }}
{{- end }}
{{- if $v.consul.token.existingSecret }}
- name: consul-token
  secret:
    secretName: {{ $v.consul.token.existingSecret }}
    defaultMode: 0440
    items: [{ key: {{ index $v.consul.token.keys .component }}, path: {{ index $v.consul.token.keys .component }} }]
{{- end }}
{{- if $v.consul.tls.existingSecret }}
- name: consul-tls
  secret: { secretName: {{ $v.consul.tls.existingSecret }}, defaultMode: 0440 }
{{- end }}
{{- if eq $v.mtls.mode "files" }}
- name: mtls
  secret: { secretName: {{ include "plinth.mtls.secret" . }}, defaultMode: 0440 }
{{- end }}
{{- if eq .component "config" }}
{{- if eq $v.postgresql.mode "none" }}
- name: data
{{- if $own.persistence.enabled }}
  persistentVolumeClaim: { claimName: {{ default (printf "%s-config" $full) $own.persistence.existingClaim }} }
{{- else }}
  emptyDir: { sizeLimit: {{ $own.persistence.size }} }
{{- end }}
{{- else }}
- name: database
  secret:
    secretName: {{ include "plinth.postgresql.secret" $root }}
    defaultMode: 0440
    items: [{ key: {{ $v.postgresql.secretKey }}, path: {{ $v.postgresql.secretKey }} }]
{{- end }}
{{- if ne $v.rabbitmq.mode "none" }}
- name: events
  secret:
    secretName: {{ include "plinth.rabbitmq.secret" $root }}
    defaultMode: 0440
    items: [{ key: {{ $v.rabbitmq.secretKey }}, path: {{ $v.rabbitmq.secretKey }} }]
{{- end }}
{{- end }}
{{- if eq .component "gateway" }}
{{- if eq $own.config.source "config-service" }}
- name: last-good
  emptyDir: { sizeLimit: 128Mi }
{{- else }}
- name: kong
{{- if $own.config.existingSecret }}
  secret: { secretName: {{ $own.config.existingSecret }}, defaultMode: 0440 }
{{- else }}
  configMap: { name: {{ default (printf "%s-kong" $full) $own.config.existingConfigMap }} }
{{- end }}
{{- end }}
{{- if $own.tls.existingSecret }}
- name: proxy-tls
  secret: { secretName: {{ $own.tls.existingSecret }}, defaultMode: 0440 }
{{- end }}
- name: logs
  emptyDir: { sizeLimit: {{ $own.logs.sizeLimit }} }
{{- end }}
{{- with $own.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* What a change of which needs new processes: secrets that the chart makes, and kong.yml on request. */}}
{{- define "plinth.checksums" -}}
{{- $root := .root -}}
checksum/secrets: {{ include (print $root.Template.BasePath "/secrets.yaml") $root | sha256sum }}
{{- if and (eq .component "gateway") $root.Values.gateway.config.rollOnChange }}
checksum/kong: {{ include (print $root.Template.BasePath "/kong.yaml") $root | sha256sum }}
{{- end }}
{{- end -}}

{{/* SPIFFE ids (mode files) that may call a component: its callers in the flow table. */}}
{{- define "plinth.mtls.id" -}}
spiffe://{{ .root.Values.mtls.trustDomain }}/ns/{{ .root.Release.Namespace }}/svc/{{ index (include "plinth.component" .root | fromYaml) .component "service" }}
{{- end -}}
{{- define "plinth.mtls.allowed" -}}
{{- $root := .root -}}
{{- $ids := list -}}
{{- range $caller := index (include "plinth.callers" $root | fromYaml) .component -}}
{{- $ids = append $ids (include "plinth.mtls.id" (dict "root" $root "component" $caller)) -}}
{{- end -}}
{{- concat $ids $root.Values.mtls.allow | uniq | join "," -}}
{{- end -}}

{{/* Who calls whose main port. The flow table of tests/deploy/static/test_chart_flows.py is the other copy, on purpose. */}}
{{- define "plinth.callers" -}}
registry: [gateway]
config: [gateway]
health: [registry, health, gateway]
gateway: []
{{- end -}}
