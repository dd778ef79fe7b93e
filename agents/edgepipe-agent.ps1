# Starts the agent with Windows, as a scheduled task of whoever runs this. UNTESTED: written for
# Windows 10 and later, and run on none of them yet. In an elevated PowerShell:
#
#   .\edgepipe-agent.ps1 -Action Install [-Config C:\edgepipe\agent.toml]
#   .\edgepipe-agent.ps1 -Action Status
#   .\edgepipe-agent.ps1 -Action Uninstall
#
# A task and no service: a service must answer Windows' service controller, which needs a wrapper.
# -Python names the interpreter that has edgepipe; the default is the one on the PATH.
param(
    [Parameter(Mandatory)] [ValidateSet("Install", "Uninstall", "Status")] [string] $Action,
    [string] $Python = (Get-Command python -ErrorAction SilentlyContinue).Source,
    [string] $Config = ""
)
$ErrorActionPreference = "Stop"
$Name = "edgepipe-agent"

switch ($Action) {
    "Install" {
        if (-not $Python) { throw "No Python is on the PATH: name the one that has edgepipe with -Python." }
        $words = "-m edgepipe agent"
        if ($Config) { $words += " --config `"$Config`"" }
        $run = New-ScheduledTaskAction -Execute $Python -Argument $words
        $when = New-ScheduledTaskTrigger -AtLogOn -User $env:USERNAME
        # Endless, on battery too, and started again a minute after it failed.
        $how = New-ScheduledTaskSettingsSet -ExecutionTimeLimit ([TimeSpan]::Zero) `
            -RestartCount 999 -RestartInterval (New-TimeSpan -Minutes 1) `
            -AllowStartIfOnBatteries -DontStopIfGoingOnBatteries
        Register-ScheduledTask -TaskName $Name -Action $run -Trigger $when -Settings $how -Force | Out-Null
        # The agent's port, those of its workers, and mDNS.
        New-NetFirewallRule -Name $Name -DisplayName "edgepipe agent" -Direction Inbound `
            -Protocol TCP -LocalPort 27700-27764 -Profile Private -Program $Python `
            -ErrorAction SilentlyContinue | Out-Null
        New-NetFirewallRule -Name "$Name-mdns" -DisplayName "edgepipe agent (mDNS)" -Direction Inbound `
            -Protocol UDP -LocalPort 5353 -Profile Private -Program $Python `
            -ErrorAction SilentlyContinue | Out-Null
        Start-ScheduledTask -TaskName $Name
        Write-Output "The agent runs, and starts whenever $env:USERNAME logs on."
    }
    "Uninstall" {
        Stop-ScheduledTask -TaskName $Name -ErrorAction SilentlyContinue
        Unregister-ScheduledTask -TaskName $Name -Confirm:$false
        Remove-NetFirewallRule -Name $Name, "$Name-mdns" -ErrorAction SilentlyContinue
        Write-Output "The agent is no longer started; its settings and weights are kept."
    }
    "Status" {
        Get-ScheduledTask -TaskName $Name | Get-ScheduledTaskInfo
    }
}
